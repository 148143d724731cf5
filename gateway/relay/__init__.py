"""Step 6, forward: bytes to OpenAI and back, unchanged but for what the path says. I/O on asyncio protocols.

`call.py` what the client asked and where its answer goes · `gate.py` waiting without tasks · `head.py` heads towards both
sides · `answer.py` the strict reader of OpenAI's answers · `connect.py` the way there · `upstream.py` one connection ·
`pool.py` many · `carry.py` one answer on its way. Never knows teams, limits or prices.
"""
