"""The admin port: metrics, health, and what operators ask and order, on a listener of its own. aiohttp; not on the hot path.

The books serve it. It sees them only through `BooksView`, changes nothing itself, and shows no secret: no upstream key, no
key's hash. Must never know journals, SQL or how a snapshot reaches a worker.

Who may ask, in `guard.py`: `/healthz` and `/readyz` anyone who reaches the port (probes carry no token). Everything else the
bearer of the token; without a configured token, only this machine, and no web page that a browser here has open.
"""

from gateway.admin.app import make_app
from gateway.admin.view import BooksView, Check, Level, LimitsShown, Reloaded

__all__ = ["BooksView", "Check", "Level", "LimitsShown", "Reloaded", "make_app"]
