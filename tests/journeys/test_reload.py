"""Configuration changes while calls go on: a good file rules from the next call on, a bad one changes nothing and is told."""

from __future__ import annotations

from typing import Any

import openai
import pytest

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is on my bill?"}]}
REFUSED = "degraded config last_reload_refused: "
BAD_FILES: list[Any] = [
    pytest.param('{"team": "changing", "tier": "teir-5"}', "tier-5", id="a tier that is none, and the one that was meant"),
    pytest.param('{"team": "changing", "modles": ["*"]}', "models", id="a key that is none, and the one that was meant"),
    pytest.param('{"team": "changing"', "changing.yaml", id="half a file"),
]


def ready(journey: Any) -> tuple[int, str]:
    """Status of /readyz, and the line of the configuration."""
    answer = journey.place.admin("/readyz")
    (line,) = [line for line in answer.body.decode().splitlines() if " config " in line]
    return answer.status, line


def test_a_changed_file_is_taken_by_itself_and_open_connections_stay(journey: Any, until: Any) -> None:
    """No admin call: the books look once a second."""
    key = journey.team("changing")
    client = journey.client("changing")
    assert client.chat.completions.create(**CHAT).choices
    taken = journey.place.metric("gateway_config_reloads_total", result="ok")
    journey.place.team("changing", limits={"gpt-4o": {"rpd": 1_234}})

    def limit() -> str:
        raw = client.chat.completions.with_raw_response.create(**CHAT)
        return str(raw.headers["x-ratelimit-limit-requests"])

    assert until(limit, lambda shown: shown == "1234", "the new limit rules") == "1234"
    assert journey.place.metric("gateway_config_reloads_total", result="ok") == taken + 1
    assert client.api_key == key


def test_a_new_key_works_and_a_revoked_one_does_not(journey: Any) -> None:
    journey.team("keyed")
    second = "gk-keyed-" + "2" * 64
    with pytest.raises(openai.AuthenticationError):
        journey.client(api_key=second).models.list()
    journey.team("keyed", more_keys={"keyed-2": second})
    assert journey.client(api_key=second).chat.completions.create(**CHAT).choices
    journey.team("keyed", revoked=["keyed-2"], more_keys={"keyed-2": second})
    with pytest.raises(openai.AuthenticationError, match="keyed-2 of team keyed was revoked"):
        journey.client(api_key=second).chat.completions.create(**CHAT)
    assert journey.client("keyed").chat.completions.create(**CHAT).choices
    assert [entry["key"] for entry in journey.entries()] == ["keyed-2", "keyed-1"]


def test_a_narrower_limit_counts_what_was_used_before_it(journey: Any) -> None:
    journey.team("narrowed", limits={"gpt-4o": {"rpd": 1_000}})
    client = journey.client("narrowed")
    assert all(client.chat.completions.create(**CHAT).choices for _ in range(4))
    journey.team("narrowed", limits={"gpt-4o": {"rpd": 5}})
    assert client.chat.completions.create(**CHAT).choices
    with pytest.raises(openai.RateLimitError, match="Limit 5, Used 5, Requested 1"):
        client.chat.completions.create(**CHAT)
    journey.team("narrowed", limits={"gpt-4o": {"rpd": 1_000}})
    assert client.chat.completions.create(**CHAT).choices
    assert len(journey.entries()) == 6


def test_a_stream_goes_on_under_the_configuration_it_began_with(journey: Any) -> None:
    journey.team("streaming")
    with journey.client("streaming").chat.completions.create(
        **CHAT, stream=True, extra_headers={"X-Simulator-Fault": "stall_mid_stream=400"}
    ) as stream:
        next(stream)
        journey.team("streaming", models=["o3"])
        assert len(list(stream)) > 2
    with pytest.raises(openai.NotFoundError):
        journey.client("streaming").chat.completions.create(**CHAT)
    assert journey.entry()["usage_source"] == "reported"


@pytest.mark.parametrize("text, told", BAD_FILES)
def test_a_bad_file_changes_nothing_and_is_told_until_a_good_one_comes(journey: Any, until: Any, text: str, told: str) -> None:
    journey.team("changing")
    refused = journey.place.metric("gateway_config_reloads_total", result="error")
    journey.expect_log("configuration_refused")
    try:
        file = journey.place.write("teams/changing.yaml", text)
        status, line = until(lambda: ready(journey), lambda found: REFUSED in found[1], "/readyz tells of the bad file")
        assert status == 200  # it serves on
        assert (file.name in line, told in line) == (True, True)
        assert journey.place.metric("gateway_config_reloads_total", result="error") == refused + 1
        shown = {"check": "config", "state": "last_reload_refused"}
        until(lambda: journey.place.metric("gateway_degraded", **shown), lambda value: value == 1, "the metric tells of the bad file")
        answer = journey.place.reload()
        assert (answer.status, answer.json()["error"]["code"]) == (409, "config_refused")
        assert told in answer.json()["error"]["message"]
        assert journey.client("changing").chat.completions.create(**CHAT).choices
        assert journey.client().chat.completions.create(**CHAT).choices
    finally:
        journey.place.team("changing", models=["o3"])
    until(lambda: ready(journey), lambda found: found[1] == "ok config ok", "the good file rules")
    with pytest.raises(openai.NotFoundError):
        journey.client("changing").chat.completions.create(**CHAT)
    assert len(journey.entries()) == 2


def test_a_team_whose_file_is_gone_is_unknown(journey: Any) -> None:
    journey.team("leaving")
    assert journey.client("leaving").chat.completions.create(**CHAT).choices
    (journey.place.config / "teams" / "leaving.yaml").unlink()
    assert journey.place.reload().status == 200
    with pytest.raises(openai.AuthenticationError):
        journey.client("leaving").chat.completions.create(**CHAT)
    assert journey.entry()["team"] == "leaving"


def test_prices_that_change_hold_from_the_next_call_on(journey: Any) -> None:
    headers = {"X-Simulator-Fault": "model=gpt-ours", "X-Simulator-Usage": "input_text=100;output_text=10"}
    card = """\
model: gpt-ours
endpoints: [chat/completions]
prices:
  - {{effective_from: 2024-01-01, source: a test, usd_per_million_tokens: {{text: {{input: "{rate}", cached: "1", output: "7"}}}}}}
"""
    try:
        for rate in ("3", "5"):
            journey.place.write("models/gpt-ours.yaml", card.format(rate=rate))
            assert journey.place.reload().status == 200
            journey.client().chat.completions.create(**CHAT, extra_headers=headers)
    finally:
        (journey.place.config / "models" / "gpt-ours.yaml").unlink()
        assert journey.place.reload().status == 200
    entries = journey.entries()
    journey.place.priced_by_policy |= {entry["exchange_id"] for entry in entries}
    assert [entry["cost_picousd"] for entry in entries] == [100 * rate * 10**6 + 10 * 7 * 10**6 for rate in (3, 5)]
