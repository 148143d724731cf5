"""Step 3, recognise: the table of OpenAI's endpoints, and what a call to each means. Pure.

`table.py` the rows · `route.py` from method and path to a row · `job.py` which model a call asks for and whether its team may
use it · `taps.py` answers without usage. Never knows sockets, limits stores or files.
"""
