"""Step 1, accept: HTTP/1.1 towards the client, as asyncio protocols. I/O.

httptools parses what clients send; nothing here reads a request by hand. Never knows teams, endpoints or OpenAI: each call
is handed to `serve_call`, which answers through the `Client` port.
"""
