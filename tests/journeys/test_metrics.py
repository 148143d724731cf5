"""After known traffic `/metrics` and the command line say exactly what the simulator's own account says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from typing import Any

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.simulator import total_picousd

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is on my bill?"}]}
SPOKEN = {"model": "gpt-4o-audio-preview", "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
PLACES = {
    "input_text": ("input", "text"), "cached_text": ("input", "text"), "input_audio": ("input", "audio"),
    "output_text": ("output", "text"), "output_audio": ("output", "audio"),
}  # fmt: skip
CARDS = {"gpt-4o-2024-08-06": "gpt-4o"}
Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def samples(place: Any) -> Samples:
    """Every sample by name and labels. The format's own parser: what it does not read fails."""
    found: Samples = {}
    for family in text_string_to_metric_families(place.metrics()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def shown(found: Samples, name: str, **labels: str) -> float | None:
    return found[name].get(tuple(sorted(labels.items())))


def used(found: Samples, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """The samples of a counter that have counted."""
    return {labels: value for labels, value in found[name].items() if value}


def labels(**values: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(values.items()))


@pytest.fixture
def busy(start_gateway: Any) -> Any:
    """A gateway of its own, after traffic that is known call by call."""
    journey = start_gateway(search={"models": ["gpt-4o", "text-embedding-3-small"], "limits": {"gpt-4o": {"rpd": 3}}})
    voice, search = journey.client(), journey.client("search")
    for number in range(5):
        voice.chat.completions.create(**CHAT, n=number + 1)
    voice.chat.completions.create(**CHAT, extra_headers={"X-Simulator-Usage": "input_text=86;cached_text=1920;output_text=300"})
    voice.chat.completions.create(**CHAT | SPOKEN)
    with voice.chat.completions.create(**CHAT | {"model": "o3"}, stream=True) as stream:
        assert list(stream)
    voice.responses.create(model="gpt-4o", input="bill")
    search.embeddings.create(model="text-embedding-3-small", input="bill")
    for _ in range(3):
        search.chat.completions.create(**CHAT)
    for _ in range(2):
        with pytest.raises(openai.RateLimitError):
            search.chat.completions.create(**CHAT)
    with pytest.raises(openai.NotFoundError):
        search.chat.completions.create(**CHAT | {"model": "o3"})
    with pytest.raises(openai.InternalServerError):
        voice.chat.completions.create(**CHAT, extra_headers={"X-Simulator-Fault": "status=500"})
    for _ in range(4):
        with pytest.raises(openai.AuthenticationError):
            journey.client(api_key="gk-nobody").models.list()
    assert journey.send("POST", "/chat/completions", CHAT | {"stream": True}, {"X-Simulator-Fault": "cut_after_events=5"}).status == 200
    journey.finish()
    return journey


def test_metrics_say_what_was_served_refused_and_spent(busy: Any, until: Any) -> None:
    place, account = busy.place, busy.lines()
    found = until(
        lambda: samples(place), lambda now: sum(now["gateway_auth_failures_total"].values()) == 4, "the worker's report of its refusals"
    )

    requests = {
        (dict(key)["team"], dict(key)["model"], dict(key)["operation"], dict(key)["status_class"], dict(key)["outcome"]): value
        for key, value in used(found, "gateway_requests_total").items()
        if dict(key)["operation"] != "responses/retrieve"  # the journey's own question whether the books have read all
    }
    assert requests == {
        ("voice", "gpt-4o", "chat/completions", "2xx", "ok"): 6,
        ("voice", "gpt-4o", "chat/completions", "2xx", "upstream_error"): 1,  # the stream that was cut
        ("voice", "gpt-4o", "chat/completions", "5xx", "upstream_error"): 1,
        ("voice", "gpt-4o-audio-preview", "chat/completions", "2xx", "ok"): 1,
        ("voice", "o3", "chat/completions", "2xx", "ok"): 1,
        ("voice", "gpt-4o", "responses", "2xx", "ok"): 1,
        ("search", "text-embedding-3-small", "embeddings", "2xx", "ok"): 1,
        ("search", "gpt-4o", "chat/completions", "2xx", "ok"): 3,
        ("search", "gpt-4o", "chat/completions", "429", "rejected"): 2,
        ("search", "none", "chat/completions", "4xx", "rejected"): 1,
    }
    teams = {entry["exchange_id"]: entry["team"] for entry in busy.entries()}
    whole = [line for line in account if line.complete]
    (cut,) = [entry for entry in busy.entries() if entry["usage_source"] == "estimated"]

    tokens: Counter[tuple[tuple[str, str], ...]] = Counter()
    for line in whole:
        for meter, count in line.quantities.items():
            direction, modality = PLACES[meter]
            model = CARDS.get(line.model, line.model)
            tokens[labels(team=teams[line.client_request_id], model=model, direction=direction, modality=modality)] += count
    for meter, count in cut["usage"].items():
        tokens[labels(team="voice", model="gpt-4o", direction=PLACES[meter][0], modality="text")] += count
    assert used(found, "gateway_tokens_total") == dict(tokens)

    details = {"reasoning": 0, "cache_read": 1920}
    for line in whole:
        details["reasoning"] += line.details.get("reasoning_tokens", 0)
    assert details["reasoning"] > 0
    told = Counter[str]()
    for key, value in used(found, "gateway_tokens_detail_total").items():
        told[dict(key)["detail"]] += int(value)
    assert told == details

    spent = total_picousd(whole) + cut["cost_picousd"]
    assert sum(entry["cost_picousd"] for entry in busy.entries()) == spent
    assert sum(map(Fraction, found["gateway_cost_usd_total"].values())) == pytest.approx(Fraction(spent, 10**12), rel=1e-12)
    assert {dict(key)["team"] for key in used(found, "gateway_cost_usd_total")} == {"voice", "search"}

    assert shown(found, "gateway_limit_decisions_total", team="search", limit="rpd", decision="reject") == 2
    assert shown(found, "gateway_limit_decisions_total", team="voice", limit="rpm", decision="reject") == 0
    assert {dict(key)["reason"]: value for key, value in used(found, "gateway_auth_failures_total").items()} == {"unknown": 4}
    sources = {dict(key)["source"]: value for key, value in used(found, "gateway_usage_source_total").items()}
    assert sources == {"upstream_usage": 13, "estimate": 1, "not_billed": 1}
    codes = {dict(key)["code"] for key in used(found, "gateway_upstream_requests_total")}
    assert codes == {"200", "500"}
    assert used(found, "gateway_requests_in_flight") == used(found, "gateway_unpriced_requests_total") == {}
    assert shown(found, "gateway_ledger_records_total", result="written") == 15
    assert shown(found, "gateway_time_to_first_token_seconds_count", model="o3", operation="chat/completions") == 1


def cli(busy: Any, *arguments: str) -> str:
    argv = [sys.executable, "-m", "gateway", *arguments, "--config", str(busy.place.config)]
    environment = os.environ | {"UPSTREAM_KEY": "sk-not-needed-to-ask"}
    done = subprocess.run(argv, capture_output=True, text=True, cwd=busy.place.root, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_says_the_same_to_the_last_digit(busy: Any) -> None:
    account = busy.lines()
    printed = [json.loads(line) for line in cli(busy, "entries", "--json").splitlines()]
    assert printed == busy.entries()
    usage = json.loads(cli(busy, "usage", "--by", "team,model", "--json"))
    rows = {(row["team"], row["model"]): row for row in usage["rows"]}
    of_search = {entry["exchange_id"] for entry in printed if entry["team"] == "search"}
    served = [line for line in account if line.client_request_id in of_search and line.model == "gpt-4o-2024-08-06"]
    assert (len(served), rows["search", "gpt-4o-2024-08-06"]["cost_picousd"]) == (3, total_picousd(served))
    assert usage["total"]["cost_picousd"] == sum(entry["cost_picousd"] for entry in printed)
    settings = busy.place.config / "gateway.yaml"  # as it would be with a port of its own
    port = busy.place.admin_url.rsplit(":", 1)[1]
    settings.write_text(settings.read_text().replace('admin: {listen: "127.0.0.1:0"}', f'admin: {{listen: "127.0.0.1:{port}"}}'))
    (limit,) = [each for each in json.loads(cli(busy, "limits", "search", "--json"))["limits"] if each["kind"] == "rpd"]
    assert (limit["capacity_units"], limit["remaining_units"]) == (3, 0)
