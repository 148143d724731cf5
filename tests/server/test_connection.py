"""A connection's life: order, bounds, time-outs, early refusals, leaving clients."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.errors import ApiError
from gateway.relay.call import Call, Client
from gateway.relay.gate import Gate
from gateway.server.connection import DISCARDED_BYTES_MAX, PIPELINED_AT_ONCE_MAX, PIPELINED_MAX

HOST = b"Host: a\r\n"
GET = b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /x HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NO_KEY = ApiError(401, "invalid_request_error", "You did not provide a key.")


def answer(client: Client, text: bytes) -> None:
    client.begin(200, b"", len(text), has_body=True)
    client.finish(text)


async def refuse_early(_call: Call, client: Client) -> None:
    """Says no before the body is there."""
    client.refuse(NO_KEY)


class Held:
    """Serves calls only when the test opens their gates."""

    def __init__(self) -> None:
        self.gates: list[Gate[None]] = []
        self.calls: list[Call] = []
        self.clients: list[Client] = []
        self.told: list[int] = []  # which of them heard that their client has left

    async def serve(self, call: Call, client: Client) -> None:
        number, gate = len(self.gates), Gate[None]()
        self.gates.append(gate)
        self.calls.append(call)
        self.clients.append(client)
        client.fed_by(None, _Watcher(self.told, number))
        await gate
        answer(client, call.path)


class _Watcher:
    def __init__(self, told: list[int], number: int) -> None:
        self._told, self._number = told, number

    def client_gone(self) -> None:
        self._told.append(self._number)


def request(path: str) -> bytes:
    return f"GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


# Order


def test_pipelined_requests_are_answered_in_order_behind_a_slow_one(house: Any) -> None:
    held = Held()

    async def test() -> None:
        async with house.door(held.serve) as door:
            line = await door.line()
            line.send(request("a") + request("b") + request("c"))
            for number, path in enumerate((b"/a", b"/b", b"/c")):
                await house.until(lambda number=number: len(held.gates) == number + 1)
                held.gates[number].open(None)
                assert (await line.answer()).body == path
            assert len(held.gates) == 3

    house.run(test)


def test_a_request_that_comes_at_the_end_of_another_does_not_overtake_those_waiting(house: Any) -> None:
    held = Held()

    async def test() -> None:
        async with house.door(held.serve) as door:
            line = await door.line()
            line.send(request("a") + request("b"))
            await house.until(lambda: len(held.gates) == 1)
            held.gates[0].open(None)
            door.connections[0].data_received(request("c"))  # in the same turn of the loop
            for number in (1, 2):
                await house.until(lambda number=number: len(held.gates) == number + 1)
                held.gates[number].open(None)
            assert [(await line.answer()).body for _ in range(3)] == [b"/a", b"/b", b"/c"]

    house.run(test)


@pytest.mark.parametrize("behind", [PIPELINED_MAX // 2, PIPELINED_MAX, PIPELINED_MAX + 1, 5 * PIPELINED_MAX])
def test_however_many_are_pipelined_all_are_answered_in_order(behind: int, house: Any) -> None:
    held = Held()

    async def serve(call: Call, client: Client) -> None:
        if call.path == b"/slow":
            await held.serve(call, client)
        else:
            answer(client, call.path)

    async def test() -> None:
        async with house.door(serve) as door:
            line = await door.line()
            line.send(request("slow"))
            await house.until(lambda: len(held.gates) == 1)
            for number in range(behind):
                line.send(request(str(number)))
            line.send(request("last") * 3)
            await house.until(lambda: line.writer.transport.get_write_buffer_size() == 0)
            held.gates[0].open(None)
            paths = [(await line.answer()).body for _ in range(behind + 4)]
            assert paths == [b"/slow", *(b"/%d" % number for number in range(behind)), b"/last", b"/last", b"/last"]

    house.run(test)


# Bounds


def test_what_one_read_holds_beyond_all_measure_is_refused_behind_the_rest(house: Any) -> None:
    held = Held()

    async def test() -> None:
        async with house.door(held.serve) as door:
            line = await door.line()
            line.send(request("slow"))
            await house.until(lambda: len(held.gates) == 1)
            door.connections[0].data_received(request("x") * 10_000)
            for number in range(PIPELINED_AT_ONCE_MAX + 1):
                await house.until(lambda number=number: len(held.gates) == number + 1)
                held.gates[number].open(None)
                assert (await line.answer()).status == 200
            got = await line.answer()
            assert (got.status, got.headers["connection"]) == (400, "close")
            assert await line.closed()
            assert len(held.gates) == PIPELINED_AT_ONCE_MAX + 1

    house.run(test)


def test_who_is_refused_before_a_body_of_bad_framing_can_send_on_and_see_the_answer(house: Any) -> None:
    """Closed at once, what it still sends would reset the connection, and take the answer with it."""

    async def test() -> None:
        async with house.door(refuse_early) as door:
            line = await door.line()
            line.send(CHUNKED + b"no size\r\n")
            assert (await line.answer()).status == 401
            assert await line.reader.read() == b"", "the gateway says no more"
            await line.send_all(b"x" * 100_000)
            assert len(door.open) == 1, "and reads on for a while"

    house.run(test)


def in_one(data: bytes) -> list[bytes]:
    return [data]


def in_sevens(data: bytes) -> list[bytes]:
    return [data[at : at + 7] for at in range(0, len(data), 7)]


def last_byte_alone(data: bytes) -> list[bytes]:
    return [data[:-1], data[-1:]]


OVER = pytest.mark.parametrize(("over", "fits"), [(-1, True), (0, True), (1, False)], ids=["one under", "exactly", "one over"])


@pytest.mark.parametrize("cut", [in_one, in_sevens, last_byte_alone])
@OVER
def test_the_head_is_bounded(over: int, fits: bool, cut: Any, house: Any, assert_openai_error: Any) -> None:
    bounds = msgspec.structs.replace(house.bounds, head_bytes_max=4_096)
    head = b"GET /" + b"u" * 1_000 + b" HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 1_500 + b"\r\nY: "
    head += b"b" * (4_096 + over - len(head) - 4) + b"\r\n\r\n"

    async def test() -> None:
        async with house.door(bounds=bounds) as door:
            line = await door.line()
            await house.until(lambda: door.connections)
            for piece in cut(head):
                door.connections[0].data_received(piece)
            got = await line.answer()
            if fits:
                assert got.status == 200
            else:
                assert_openai_error(got.status, got.headers, got.body, 431)
                assert await line.closed()
            assert len(door.served) == fits

    house.run(test)


def test_a_header_that_never_ends_is_given_up_while_it_comes(house: Any) -> None:
    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            line.send(b"GET /x HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000)
            assert (await line.answer()).status == 431

    house.run(test)


@OVER
@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
def test_the_body_is_bounded(over: int, fits: bool, chunked: bool, house: Any, assert_openai_error: Any) -> None:
    bounds = msgspec.structs.replace(house.bounds, body_bytes_max=10_000)
    size = 10_000 + over
    if chunked:
        raw = CHUNKED + b"1000\r\n" + b"a" * 4_096 + b"\r\n%x\r\n" % (size - 4_096) + b"b" * (size - 4_096) + b"\r\n0\r\n\r\n"
    else:
        raw = POST + b"Content-Length: %d\r\n\r\n" % size + b"a" * size

    async def test() -> None:
        async with house.door(bounds=bounds) as door:
            line = await door.line()
            line.send(raw)
            got = await line.answer()
            if fits:
                assert (got.status, len(door.served[0].body)) == (200, size)
            else:
                assert_openai_error(got.status, got.headers, got.body, 413)
                assert await line.closed()
                assert door.served == []

    house.run(test)


@pytest.mark.parametrize("begun", [b"3;", b"3\r\nabc\r\n0\r\nX: ", b"0\r\n" + b"X: y\r\n" * 3], ids=["extension", "trailer", "trailers"])
def test_framing_without_a_body_is_bounded_like_a_head(begun: bytes, house: Any, assert_openai_error: Any) -> None:
    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            await house.until(lambda: door.connections)
            connection = door.connections[0]
            connection.data_received(CHUNKED)
            connection.data_received(begun)
            more = b"X: y\r\n" * 100 if begun.endswith(b"\r\n") else b"a" * 600
            for _ in range(house.bounds.head_bytes_max // 600 - 1):
                connection.data_received(more)
            assert door.timeout_ms() == house.bounds.body_timeout_ms, "so much is nothing to refuse"
            connection.data_received(more + more)
            got = await line.answer()
            assert_openai_error(got.status, got.headers, got.body, 400)
            assert await line.closed()
            assert door.served == []

    house.run(test)


def test_many_small_chunks_are_no_such_framing(house: Any) -> None:
    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            line.send(CHUNKED + b"1\r\na\r\n" * 40_000 + b"0\r\n\r\n")
            assert (await line.answer()).body == b"POST /x 40000"

    house.run(test)


# Time


def test_each_wait_has_its_own_time(house: Any) -> None:
    held = Held()

    async def test() -> None:
        async with house.door(held.serve) as door:
            line = await door.line()
            await house.until(lambda: door.connections)
            connection, bounds = door.connections[0], house.bounds
            assert door.timeout_ms() == bounds.head_timeout_ms, "before anything came"
            connection.data_received(b"POST /x HT")
            assert door.timeout_ms() == bounds.head_timeout_ms, "inside a head"
            connection.data_received(b"TP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
            assert door.timeout_ms() == bounds.body_timeout_ms, "inside a body"
            connection.data_received(b"hi")
            assert door.timeout_ms() is None, "while the exchange runs"
            held.gates[0].open(None)
            assert door.timeout_ms() == bounds.idle_timeout_ms, "behind it"
            assert (await line.answer()).status == 200

    house.run(test)


@pytest.mark.parametrize("begun", [b"GET /x HT", GET[:-2], POST + b"Content-Length: 3\r\n\r\nab", CHUNKED + b"3\r\nab"])
def test_a_request_that_stalls_is_answered_408(begun: bytes, house: Any, assert_openai_error: Any) -> None:
    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            await house.until(lambda: door.connections)
            door.connections[0].data_received(begun)
            door.expire()
            got = await line.answer()
            assert_openai_error(got.status, got.headers, got.body, 408)
            assert await line.closed()
            assert door.served == []

    house.run(test)


@pytest.mark.parametrize("before", [b"", GET], ids=["before any request", "between requests"])
def test_a_silent_connection_is_closed_without_a_word(before: bytes, house: Any) -> None:
    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            line.send(before)
            if before:
                await line.answer()
            await house.until(lambda: door.connections)
            door.expire()
            assert await line.closed()

    house.run(test)


def test_a_client_that_lingers_behind_its_refusal_is_cut_off(house: Any) -> None:
    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            line.send(b"GARBAGE\r\n\r\n")
            await line.answer()
            assert await line.closed()  # our side; the client keeps its own open
            assert len(door.open) == 1
            door.expire()
            await house.until(lambda: len(door.open) == 0)

    house.run(test)


# Continue, HEAD, keep-alive


def test_a_client_that_expects_it_is_told_to_continue(house: Any) -> None:
    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            line.send(POST + b"Expect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
            assert (await line.answer()).status == 100
            line.send(b"hi")
            assert (await line.answer()).body == b"POST /x 2"
            line.send(b"POST /x HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi")
            assert (await line.answer()).status == 200

    house.run(test)


def test_a_client_that_is_not_told_to_continue_gets_its_refusal_and_a_close(house: Any, assert_openai_error: Any) -> None:
    async def test() -> None:
        async with house.door(refuse_early) as door:
            line = await door.line()
            line.send(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            got = await line.answer()
            assert_openai_error(got.status, got.headers, got.body, 401)
            assert got.headers["connection"] == "close"
            line.send(GET)  # it may have sent its body or not: this must not be taken for one, nor be served
            assert await line.closed()

    house.run(test)


def test_an_answer_to_head_has_the_head_of_the_answer_to_get(house: Any) -> None:
    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            line.send(b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
            got = await line.answer(to_head=True)
            assert (got.status, got.headers["content-length"]) == (200, "9")
            assert (await line.answer()).body == b"GET /x 0"

    house.run(test)


KEEP = {
    "1.1": (b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", True, None),
    "1.1 with close": (b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", False, "close"),
    "1.1 with Close in a list": (b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", False, "close"),
    "1.0": (b"GET /x HTTP/1.0\r\n\r\n", False, "close"),
    "1.0 with keep-alive": (b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True, "keep-alive"),
}


@pytest.mark.parametrize(("raw", "kept", "said"), KEEP.values(), ids=KEEP.keys())
def test_the_connection_is_kept_or_closed_as_the_client_asked(raw: bytes, kept: bool, said: str | None, house: Any) -> None:
    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            line.send(raw)
            assert (await line.answer()).headers.get("connection") == said
            if kept:
                line.send(raw)
                assert (await line.answer()).status == 200
            else:
                assert await line.closed()

    house.run(test)


# Refused before the body is there


def test_a_call_refused_early_leaves_the_connection_usable(house: Any, assert_openai_error: Any) -> None:
    async def test() -> None:
        async with house.door(refuse_early) as door:
            line = await door.line()
            line.send(POST + b"Content-Length: 500000\r\n\r\n" + b"a" * 10)
            got = await line.answer()
            assert_openai_error(got.status, got.headers, got.body, 401)
            line.send(b"a" * 499_990 + GET)
            assert (await line.answer()).status == 401
            assert door.timeout_ms() == house.bounds.idle_timeout_ms

    house.run(test)


def test_a_call_refused_early_that_also_wants_to_close_still_sees_its_answer(house: Any) -> None:
    async def test() -> None:
        async with house.door(refuse_early) as door:
            line = await door.line()
            await line.send_all(POST + b"Connection: close\r\nContent-Length: 3000000\r\n\r\n" + b"a" * 3_000_000)
            assert (await line.answer()).status == 401
            assert await line.closed()

    house.run(test)


@pytest.mark.parametrize("rest", [None, b"\r\nGARBAGE"], ids=["stalls", "is malformed"])
def test_a_call_refused_early_gets_no_second_answer_when_the_rest_of_it(rest: bytes | None, house: Any) -> None:
    async def test() -> None:
        async with house.door(refuse_early) as door:
            line = await door.line()
            line.send(CHUNKED + b"3\r\nab")
            assert (await line.answer()).status == 401
            if rest is None:
                door.expire()
            else:
                door.connections[0].data_received(rest)
            assert await line.closed()

    house.run(test)


def test_an_upload_without_end_behind_a_refusal_is_cut_off(house: Any) -> None:
    async def test() -> None:
        async with house.door(refuse_early, bounds=msgspec.structs.replace(house.bounds, body_bytes_max=10**9)) as door:
            line = await door.line()
            line.send(POST + b"Content-Length: 900000000\r\n\r\n")
            assert (await line.answer()).status == 401
            piece = b"a" * 1_000_000
            for _ in range(DISCARDED_BYTES_MAX // len(piece)):
                door.connections[0].data_received(piece)
            assert len(door.open) == 1
            door.connections[0].data_received(piece)
            await house.until(lambda: len(door.open) == 0)

    house.run(test)


def test_nothing_is_served_behind_an_answer_that_closes(house: Any) -> None:
    served: list[bytes] = []

    async def serve(call: Call, client: Client) -> None:
        served.append(call.path)
        client.refuse(msgspec_closed)

    msgspec_closed = ApiError(503, "server_error", "The gateway is going away.", close=True)

    async def test() -> None:
        async with house.door(serve) as door:
            line = await door.line()
            line.send(request("a") + request("b"))
            assert (await line.answer()).status == 503
            assert await line.closed()
            assert served == [b"/a"]

    house.run(test)


# Leaving


@pytest.mark.parametrize("how", ["closes", "resets", "only stops sending"])
def test_an_exchange_whose_client_leaves_is_told_once(how: str, house: Any) -> None:
    held = Held()

    async def test() -> None:
        async with house.door(held.serve) as door:
            line = await door.line()
            line.send(request("a") + request("b"))
            await house.until(lambda: len(held.gates) == 1)
            if how == "closes":
                line.writer.close()
            elif how == "resets":
                line.abort()
            else:
                line.writer.write_eof()
            await house.until(lambda: len(door.open) == 0)
            assert held.clients[0].gone
            assert held.told == [0]
            held.gates[0].open(None)  # it writes its answer to nobody
            assert len(held.gates) == 1, "the waiting one is not begun for nobody"
            assert door.broke == []

    house.run(test)


def test_a_client_that_leaves_inside_its_body_is_a_cut_call(house: Any) -> None:
    seen: list[ApiError | None] = []

    async def serve(call: Call, client: Client) -> None:
        seen.append(await call.received)
        client.refuse(seen[0] or NO_KEY)

    async def test() -> None:
        async with house.door(serve) as door:
            line = await door.line()
            line.send(POST + b"Content-Length: 3\r\n\r\nab")
            await house.until(lambda: door.connections and door.connections[0]._arriving is not None)
            line.writer.write_eof()
            got = await line.answer()
            assert got.status == 400
            assert [error.status for error in seen if error] == [400]
            assert await line.closed()

    house.run(test)


# As many as there may be


def test_one_connection_too_many_is_told_so_and_the_others_are_served(house: Any, assert_openai_error: Any) -> None:
    async def test() -> None:
        async with house.door(bounds=msgspec.structs.replace(house.bounds, connections_max=2)) as door:
            lines = [await door.line() for _ in range(2)]
            for line in lines:
                line.send(request("a"))
                assert (await line.answer()).status == 200
            over = await door.line()
            got = await over.answer()
            assert_openai_error(got.status, got.headers, got.body, 503)
            assert got.headers["retry-after-ms"] == "1000"
            assert await over.closed()
            lines[0].send(request("b"))
            assert (await lines[0].answer()).status == 200

    house.run(test)
