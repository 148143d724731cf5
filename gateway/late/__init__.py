"""Usage that comes later, or never: background responses, and intents that a crash left open. Pure, so far.

The books call it. It decides what an entry becomes when more is known of its exchange, and does nothing itself: never knows
journals, the ledger, sockets or the clock.
"""
