"""Who calls: from a header to a key of a team, or OpenAI's 401."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.teams import Identity, Key, Team, key_hash
from gateway.teams.identify import KEY_BYTES_MAX, NotIdentified, identify, shown

NOW_US = 1_790_000_000_000_000
SECRET = b"gk-abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
KEY = Key("k1", key_hash(SECRET))
TEAM = Team("voice", "tier-1", keys=(KEY,))


def found(authorization: bytes | None, key: Key = KEY, now_us: int = NOW_US) -> Identity | NotIdentified:
    return identify(authorization, {key.hash: Identity(TEAM, key)}, now_us)


@pytest.mark.parametrize("form", [b"Bearer %b", b"bearer %b", b"BEARER %b", b"Bearer  %b", b"  Bearer %b  ", b"Bearer %b\t"])
def test_a_valid_key_is_its_team(form: bytes) -> None:
    assert found(form % SECRET) == Identity(TEAM, KEY)


MISSING = [
    None, b"", b"Bearer", b"Bearer ", b"Basic " + SECRET, SECRET, b"Bearer\t" + SECRET, b"Bearer: " + SECRET, b"Token " + SECRET,
    b"Bearer " + b"k" * (KEY_BYTES_MAX + 1),
]  # fmt: skip


@pytest.mark.parametrize("authorization", MISSING)
def test_no_key_is_said_to_be_none(authorization: bytes | None, assert_openai_error: Any) -> None:
    stranger = found(authorization)
    assert isinstance(stranger, NotIdentified)
    assert stranger.reason == "missing"
    refused = stranger.error
    error = assert_openai_error(refused.status, {"content-type": "application/json"}, refused.body(), 401, None, "invalid_request_error")
    assert error["message"].startswith("You didn't provide an API key.")


WRONG = [
    SECRET + b"x", SECRET[:-1], SECRET.upper(), b"sk-proj-" + b"a" * 40, b"\xff\xfe" * 20, b"k" * KEY_BYTES_MAX, SECRET + b" " + SECRET,
    key_hash(SECRET).encode(),
]  # fmt: skip


@pytest.mark.parametrize("key", WRONG, ids=range(len(WRONG)))
def test_a_wrong_key_is_refused_and_never_shown_in_full(key: bytes, assert_openai_error: Any) -> None:
    stranger = found(b"Bearer " + key)
    assert isinstance(stranger, NotIdentified)
    assert stranger.reason == "unknown"
    refused = stranger.error
    error = assert_openai_error(refused.status, {"content-type": "application/json"}, refused.body(), 401, "invalid_api_key")
    assert error["message"].startswith("Incorrect API key provided: ")
    assert key.decode("ascii", "replace") not in error["message"]
    assert len(error["message"]) < 200


@pytest.mark.parametrize("length", range(60))
def test_what_is_shown_of_a_key_is_too_little_to_use(length: int) -> None:
    key = bytes(range(65, 91)) * 3
    text = shown(key[:length])
    assert len(text.replace("***", "")) <= 9
    assert len(text.replace("***", "")) * 2 <= length or text == "***"


def test_a_revoked_key_is_told_apart_from_a_wrong_one(assert_openai_error: Any) -> None:
    stranger = found(b"Bearer " + SECRET, Key("k1", key_hash(SECRET), revoked=True))
    assert isinstance(stranger, NotIdentified)
    assert stranger.reason == "revoked"
    refused = stranger.error
    error = assert_openai_error(refused.status, {"content-type": "application/json"}, refused.body(), 401, "invalid_api_key")
    assert "k1" in error["message"]
    assert "revoked" in error["message"]
    assert SECRET.decode() not in error["message"]


@pytest.mark.parametrize(
    ("left_us", "valid"), [(1, True), (0, False), (-1, False)], ids=["a microsecond before", "at its end", "a microsecond behind"]
)
def test_a_key_is_valid_until_it_expires(left_us: int, valid: bool, assert_openai_error: Any) -> None:
    key = Key("k1", key_hash(SECRET), expires_at_us=NOW_US + left_us)
    answer = found(b"Bearer " + SECRET, key)
    if valid:
        assert answer == Identity(TEAM, key)
    else:
        assert isinstance(answer, NotIdentified)
        assert answer.reason == "expired"
        headers = {"content-type": "application/json"}
        error = assert_openai_error(answer.error.status, headers, answer.error.body(), 401, "invalid_api_key")
        assert "expired" in error["message"]


def test_revoked_is_said_before_expired() -> None:
    answer = found(b"Bearer " + SECRET, Key("k1", key_hash(SECRET), expires_at_us=0, revoked=True))
    assert isinstance(answer, NotIdentified)
    assert answer.reason == "revoked"


def test_only_the_hash_of_a_key_is_kept() -> None:
    assert key_hash(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert SECRET.decode() not in repr(TEAM)
