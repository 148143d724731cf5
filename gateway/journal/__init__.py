"""Step 10, record: intents and entries, append-only, on local disk; the one door from a worker to the books. Not pure.

A worker writes with `JournalWriter`, the books follow with `JournalReader`. An append is a copy into the page cache, so it
survives `kill -9` at once, and power loss after the next group commit, which a small process beside the worker does. Without
room, or when the disk fails, the writer says so by an error and by `ready`: the worker answers 503. Never knows prices, limits,
network or the ledger.
"""
