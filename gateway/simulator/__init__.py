"""An OpenAI to develop and test against, and a witness of what it served. Not on the path.

It answers as the published schemas say, streams, breaks on demand, and keeps its own account: it draws disjoint quantities
first, prices them from its own table in Decimal (`prices.py`), writes them down, and only then composes OpenAI's overlapping
usage from them. So a test can hold the ledger against it. It must never know how the gateway meters, prices or counts: of the
gateway it imports `gateway.units` and nothing else.

    server.py     routes, keys, starting and stopping        call.py       what an endpoint is given and gives back
    chat.py, completions.py, responses.py (+ response_stream.py, tools.py), plain.py    the endpoints: no I/O
    draw.py       quantities, from the seed and the request  usage.py      usage objects composed from them
    delivery.py   pace, faults, and the account before the last bytes      faults.py    what can go wrong, and the queue
    account.py    the account: written, read, compared with a ledger
"""

from gateway.simulator.account import Difference, Line, compare, read_account, total_picousd
from gateway.simulator.desk import Pace
from gateway.simulator.server import Simulator, in_thread, run

__all__ = ["Difference", "Line", "Pace", "Simulator", "compare", "in_thread", "read_account", "run", "total_picousd"]
