"""Grafana dashboards, as code: what is asked of Prometheus about the gateway, and how it is laid out. Beside the path; pure.

    panels       the few kinds of panel, rows, and their places in Grafana's grid of 24 columns
    variables    what is chosen at the top of a dashboard, and queries with the choice filled in as Grafana does it
    overview     the first dashboard

`python -m gateway.dashboards FOLDER` writes them as JSON; `grafana/dashboards/` holds what it gives for this version. In the
package and not beside the JSON, because whoever has only the package gets the dashboards that fit its metrics. Must never know
a Grafana or a Prometheus: a test asks every query of a real one.
"""

from collections.abc import Callable
from typing import Any

from gateway.dashboards.overview import overview
from gateway.dashboards.variables import ALL, filled

DASHBOARDS: dict[str, Callable[[], dict[str, Any]]] = {"overview.json": overview}

__all__ = ["ALL", "DASHBOARDS", "filled", "overview"]
