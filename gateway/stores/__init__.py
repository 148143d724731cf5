"""Steps 5 and 9, where the counters live: `Counters` of admission/, kept in this process or shared by workers.

Not pure, but time is an argument here too: `now_ms` is always passed in. Never decides by itself: the arithmetic is
`admission/bucket.py`. Never knows teams, models, prices or money that was spent: it is no copy of anything that is in the ledger.
"""
