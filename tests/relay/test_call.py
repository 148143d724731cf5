"""What a call keeps of its body: small ones in memory, large ones on disk, none of it behind `close`."""

from __future__ import annotations

import pytest

from gateway.relay.call import SPOOL_BYTES, Call


def a_call(headers: list[tuple[bytes, bytes]] | None = None) -> Call:
    return Call("POST", b"/x", b"", headers or [], http_10=False, keep_alive=True)


def test_a_body_comes_back_however_it_came() -> None:
    call = a_call()
    assert call.body() == b""
    for piece in (b"a", b"bc", b"", b"def"):
        call.add(piece)
    assert (call.body(), call.body(), call.body_bytes) == (b"abcdef", b"abcdef", 6)
    call.add(b"g")
    assert call.body() == b"abcdefg"
    assert call.body_to_send() == b"abcdefg"


@pytest.mark.parametrize(("size", "on_disk"), [(SPOOL_BYTES - 1, False), (SPOOL_BYTES, False), (SPOOL_BYTES + 1, True)])
def test_only_what_is_beyond_the_bound_goes_to_disk(size: int, on_disk: bool) -> None:
    call = a_call()
    for start in range(0, size, 100_000):
        call.add(b"%07d" % start + b"a" * (min(100_000, size - start) - 7))
    kept = call.body_to_send()
    assert isinstance(kept, bytes) is not on_disk
    assert call.body_bytes == size
    body = call.body()
    assert len(body) == size
    if not isinstance(kept, bytes):
        kept.seek(70)
        again = call.body_to_send()
        assert again is kept
        assert kept.read() == body, "it stands at its beginning"
    call.close()
    if not isinstance(kept, bytes):
        assert kept.closed


def test_the_first_header_of_a_name_is_the_one() -> None:
    call = a_call([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")])
    assert (call.header(b"a"), call.header(b"b"), call.header(b"c")) == (b"1", b"2", None)
