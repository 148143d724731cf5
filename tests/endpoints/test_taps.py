"""What passes where nothing is metered: the list of models as a team may see it, and bytes as they are."""

from __future__ import annotations

import json

import pytest

from gateway.endpoints.taps import LIST_BYTES_MAX, ModelsFilter, PassThrough

ITEMS = [
    b'{"id": "gpt-4o", "object":"model","created":1715367049,  "owned_by":"system","shutdown_date":null}',
    b'{\n "owned_by":"openai", "id":"gpt-4o-mini"}',
    b'{"id":"\\u0067pt-4o-2024-08-06","n":1.50e3,"\xc3\xa9":"\\ud83d\\ude00"}',
]
LIST = b'{"object":"list","data":[' + b",\n ".join(ITEMS) + b'],"has_more":false}'


def seen(body: bytes, allowed: set[str], piece: int = 10_000) -> bytes:
    tap = ModelsFilter(allowed.__contains__)
    for at in range(0, len(body), piece):
        assert tap.feed(body[at : at + piece]) == b"", "nothing passes before all of it is there"
    assert tap.finish().usage is None
    return tap.release()


@pytest.mark.parametrize("piece", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("allowed", "kept"),
    [({"gpt-4o", "gpt-4o-mini", "gpt-4o-2024-08-06"}, [0, 1, 2]), ({"gpt-4o-mini"}, [1]), ({"gpt-4o-2024-08-06", "gpt-4o"}, [0, 2]),
     (set(), [])],
    ids=["all", "the middle", "first and last", "none"],
)  # fmt: skip
def test_each_item_that_a_team_may_see_stays_byte_for_byte(allowed: set[str], kept: list[int], piece: int) -> None:
    expected = b'{"object":"list","data":[' + b",".join(ITEMS[number] for number in kept) + b"]}"
    assert seen(LIST, allowed, piece) == expected
    assert [item["id"] for item in json.loads(expected)["data"]] == [json.loads(ITEMS[number])["id"] for number in kept]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", LIST[:-1], b'{"data":[{"id":1}]}', b'{"data":[{}]}', b'{"data":{}}', b'{"object":"list"}', b"\xff",
     b"[" * 100_000, b'{"data":[{"id":"gpt-4o"},3]}', b'{"data":[' + b"[" * 100_000],
)  # fmt: skip
def test_a_list_that_cannot_be_read_shows_nothing(body: bytes) -> None:
    assert seen(body, {"gpt-4o"}) == b'{"object":"list","data":[]}'


@pytest.mark.parametrize(("over", "shown"), [(-1, True), (0, True), (1, False)], ids=["one under", "exactly", "one over"])
def test_a_list_that_is_too_large_shows_nothing(over: int, shown: bool) -> None:
    body = LIST + b" " * (LIST_BYTES_MAX + over - len(LIST))
    assert (b"gpt-4o-mini" in seen(body, {"gpt-4o-mini"}, 65_536)) is shown


def test_what_is_not_metered_passes_as_it_is() -> None:
    tap = PassThrough()
    assert not tap.started
    assert tap.feed(b"abc") == b"abc"
    assert (tap.started, tap.ended, tap.usage_due, tap.release()) == (True, False, False, b"")
    assert tap.finish().lost is None
    assert PassThrough(lost="it is compressed").finish().lost == "it is compressed"
