"""What Prometheus sees: names, labels and buckets, filled by the books from entries and from workers' reports. Not pure.

One registry of `prometheus-client` in one process: no multiprocess mode, and a scrape never blocks a call. Floats are fine
here (exact to 2**53): the ledger is the truth of money, these are its shape over time. Fed only with entries that became
effective in the ledger, so a replay counts nothing. Every label value comes from the configuration or from a closed set; what
does not is `other`. Must never know sockets, SQL or the admin port.
"""

from gateway.metrics.entries import EntryMetrics
from gateway.metrics.families import OTHER, Families, Series
from gateway.metrics.live import LiveMetrics

__all__ = ["OTHER", "EntryMetrics", "Families", "LiveMetrics", "Series"]
