"""Steps 4 and 7, estimate and observe: what a call may use, what it did use. Pure and sans-io: bytes in, values out.

`body` reads what clients send, `estimate` says what that may use, `edit` merges the usage option into it, `observers` watch
the answer go by, `usage` untangles what OpenAI reports into disjoint meters, and `close` decides what is booked at the end.

Total: whatever the bytes, no exception leaves but those a docstring names. Metering that fails stops metering, never the
client's bytes, and is booked at what was reserved. Never knows prices, teams, limits, the clock or the network.
"""
