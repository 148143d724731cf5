"""Headers and refusals, as clients and SDKs read them."""

from __future__ import annotations

import json

import pytest

from gateway.admission import PERIOD_MS, Limit, LimitKind, Reading, Refused, Scope
from gateway.admission.answers import ratelimit_headers, refusal, tier_excluded
from gateway.admission.limits import TierExcludes
from gateway.errors import ApiError


def limit(kind: LimitKind, capacity_units: int, scope: Scope = "group", subject: str = "group:gpt-4o") -> Limit:
    return Limit(kind, scope, "team:voice", subject, capacity_units, PERIOD_MS[kind])


def test_headers_print_both_kinds_as_openai_does() -> None:
    block = ratelimit_headers((Reading(limit("rpm", 60), 59, 1000), Reading(limit("tpm", 150_000), 149_984, 7)))
    assert block == (
        b"x-ratelimit-limit-requests: 60\r\nx-ratelimit-remaining-requests: 59\r\nx-ratelimit-reset-requests: 1s\r\n"
        b"x-ratelimit-limit-tokens: 150000\r\nx-ratelimit-remaining-tokens: 149984\r\nx-ratelimit-reset-tokens: 7ms\r\n"
    )


@pytest.mark.parametrize("reset_ms, text", [(0, b"0s"), (1, b"1ms"), (999, b"999ms"), (1000, b"1s"), (8640, b"8.64s"), (432_000, b"7m12s")])
def test_resets_are_go_durations(reset_ms: int, text: bytes) -> None:
    assert ratelimit_headers((Reading(limit("rpm", 60), 0, reset_ms),)).endswith(b"-reset-requests: " + text + b"\r\n")


def test_of_several_buckets_the_tightest_speaks() -> None:
    by_day = Reading(limit("rpd", 10_000), 99, 8640)
    by_minute = Reading(limit("rpm", 100), 1, 20)
    of_key = Reading(limit("rpm", 100, "key", "key:ci"), 2, 20)
    for readings in ((by_day, by_minute, of_key), (of_key, by_minute, by_day)):
        assert b"limit-requests: 10000\r\n" in ratelimit_headers(readings)


def test_the_accounts_buckets_never_speak_and_no_limit_means_no_header() -> None:
    of_account = Reading(limit("rpm", 10, "account"), 0, 60_000)
    assert ratelimit_headers((of_account,)) == b""
    assert b"limit-requests: 60\r\n" in ratelimit_headers((of_account, Reading(limit("rpm", 60), 59, 1000)))
    assert ratelimit_headers((Reading(limit("tpm", 60), 59, 1000),)).startswith(b"x-ratelimit-limit-tokens")


def refused(of: Limit, wait_ms: int | None, used: int = 29_937, requested: int = 385) -> ApiError:
    return refusal(Refused(of, used, requested, wait_ms, ()), model="gpt-4o", team="voice")


@pytest.mark.parametrize(
    "of, wait_ms, type_, start, end",
    [
        (
            limit("tpm", 30_000),
            644,
            "tokens",
            "Rate limit reached for gpt-4o in organization voice on tokens per min (TPM): "
            "Limit 30000, Used 29937, Requested 385. Please try again in 644ms. ",
            "of team voice for the models of group gpt-4o; the people who run this gateway can change it.",
        ),
        (
            limit("rpm", 3, "key", "key:voice-dev"),
            20_000,
            "requests",
            "Rate limit reached for gpt-4o in organization voice on requests per min (RPM): Limit 3, ",
            "of key voice-dev of team voice over all models; the people who run this gateway can change it.",
        ),
        (
            limit("rpd", 10_000, "team", "team"),
            8640,
            "requests",
            "Rate limit reached for gpt-4o in organization voice on requests per day (RPD): Limit 10000, ",
            "of team voice over all models; the people who run this gateway can change it.",
        ),
        (
            limit("tpm", 30_000, "group", "model:gpt-4o"),
            None,
            "tokens",
            "Request too large for gpt-4o in organization voice on tokens per min (TPM): Limit 30000, Requested 385. "
            "The input or output tokens must be reduced in order to run successfully. ",
            "of team voice for the model gpt-4o; the people who run this gateway can change it.",
        ),
    ],
    ids=["tokens of a group", "requests of a key", "requests of a team's day", "more than a model's limit can hold"],
)
def test_refusals_have_openais_form_and_name_our_limit(of: Limit, wait_ms: int | None, type_: str, start: str, end: str) -> None:
    error = refused(of, wait_ms)
    assert error.message.startswith(start)
    assert error.message.endswith(end)
    assert json.loads(error.body())["error"] == {
        "message": error.message,
        "type": type_,
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert error.status == 429
    assert "platform.openai.com" not in error.message


@pytest.mark.parametrize("wait_ms", [12_345, None])
def test_a_refusal_by_the_account_tells_none_of_its_numbers(wait_ms: int | None) -> None:
    error = refused(limit("tpm", 30_000, "account"), wait_ms)
    assert not {"30000", "29937", "385"} & set(error.message.replace(",", " ").replace(".", " ").split())
    assert ("12.345s" in error.message) == (wait_ms is not None)
    assert "all teams of this gateway share" in error.message
    assert (error.status, error.type, error.code) == (429, "tokens", "rate_limit_exceeded")


@pytest.mark.parametrize(
    "wait_ms, headers",
    [
        (1, [(b"retry-after", b"1"), (b"retry-after-ms", b"1")]),
        (644, [(b"retry-after", b"1"), (b"retry-after-ms", b"644")]),
        (1000, [(b"retry-after", b"1"), (b"retry-after-ms", b"1000")]),
        (1001, [(b"retry-after", b"2"), (b"retry-after-ms", b"1001")]),
        (60_000, [(b"retry-after", b"60"), (b"retry-after-ms", b"60000")]),
        (60_001, [(b"retry-after", b"61"), (b"retry-after-ms", b"60001"), (b"x-should-retry", b"false")]),
        (None, [(b"x-should-retry", b"false")]),
    ],
)
def test_sdks_are_told_when_to_come_back_and_when_not_to(wait_ms: int | None, headers: list[tuple[bytes, bytes]]) -> None:
    assert list(refused(limit("rpm", 3), wait_ms).retry_headers()) == headers


def test_an_error_may_ask_for_a_retry() -> None:
    assert ApiError(503, "server_error", "Try again.", should_retry=True).retry_headers() == ((b"x-should-retry", b"true"),)


def test_a_tier_that_may_not_use_a_model_is_told_in_openais_shape() -> None:
    error = tier_excluded(TierExcludes("gpt-4o-realtime-preview", "voice", "free"))
    assert (error.status, error.type, error.code, error.param) == (404, "invalid_request_error", "model_not_found", None)
    assert error.message.startswith("The model `gpt-4o-realtime-preview` does not exist or you do not have access to it.")
    assert "tier free" in error.message
