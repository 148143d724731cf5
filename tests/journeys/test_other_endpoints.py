"""Embeddings, moderations, completions, models; and the paths the gateway does not meter, or does not know."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

SPEECH = b"RIFF" + bytes(24) + (16_000).to_bytes(4, "little") + bytes(12) + bytes(32_000)  # two seconds of WAV


@pytest.mark.parametrize(
    "given, vectors, ids",
    [
        pytest.param("What is on my bill?", 1, 0, id="a string"),
        pytest.param(["What is", "on my bill?"], 2, 0, id="strings"),
        pytest.param([1, 2, 3, 4, 5], 1, 5, id="token ids"),
        pytest.param([[1, 2, 3], [4, 5]], 2, 5, id="arrays of token ids"),
    ],
)
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(journey: Any, given: Any, vectors: int, ids: int, encoding: str) -> None:
    made = journey.client().embeddings.create(model="text-embedding-3-small", input=given, encoding_format=encoding, dimensions=16)
    entry = journey.entry()
    assert (entry["endpoint"], entry["usage_source"]) == ("embeddings", "reported")
    assert entry["usage"] == {"input_text": made.usage.prompt_tokens}
    assert entry["cost_picousd"] == made.usage.prompt_tokens * 20_000  # $0.02 per million
    assert len(made.data) == vectors
    assert not ids or made.usage.prompt_tokens == ids


def test_embeddings_as_the_sdk_asks_by_itself(journey: Any) -> None:
    """Base64 on the wire, floats for the caller."""

    async def story() -> Any:
        async with journey.async_client() as client:
            return await client.embeddings.create(model="text-embedding-3-large", input="What is on my bill?")

    assert all(isinstance(number, float) for number in asyncio.run(story()).data[0].embedding)
    assert journey.entry()["usage_source"] == "reported"


def test_moderations_are_free(journey: Any) -> None:
    assert not journey.client().moderations.create(model="omni-moderation-latest", input="Hello").results[0].flagged
    assert len(journey.client().moderations.create(input=["Hello", "Bye"]).results) == 2  # the model is OpenAI's to choose
    assert [(entry["endpoint"], entry["usage_source"], entry["cost_picousd"]) for entry in journey.entries()] == [
        ("moderations", "not_billed", 0)
    ] * 2


def test_completions(journey: Any) -> None:
    asked = {"model": "gpt-3.5-turbo-instruct", "prompt": ["Once upon a time", "There was"], "n": 2, "best_of": 3, "max_tokens": 8}
    client = journey.client()
    whole = client.completions.create(**asked)
    with client.completions.create(**asked, stream=True) as stream:
        assert all(chunk.usage is None for chunk in stream)
    with client.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
        told = list(stream)[-1].usage
    entries = journey.entries()
    assert len(whole.choices) == 4
    assert [entry["usage"] for entry in entries] == [
        {"input_text": whole.usage.prompt_tokens, "output_text": whole.usage.completion_tokens}
    ] * 3
    assert (told.prompt_tokens, told.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    assert {entry["cost_picousd"] for entry in entries} == {told.prompt_tokens * 1_500_000 + told.completion_tokens * 2_000_000}


def test_the_list_of_models_shows_what_the_team_may_use(journey: Any) -> None:
    everything = {model["id"] for model in journey.send("GET", "/models", direct=True).json()["data"]}
    for_search = {model.id for model in journey.client("search").models.list()}
    allowed = {"gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-2024-11-20", "gpt-4o-mini", "gpt-4o-mini-2024-07-18", "text-embedding-3-small"}
    assert for_search == allowed & everything
    assert len(for_search) >= 4
    for_voice = {model.id for model in journey.client().models.list()}
    assert for_search < for_voice <= everything
    assert {model.id for model in journey.client(base_url=journey.base_url.removesuffix("/v1")).models.list()} == for_voice
    assert {entry["endpoint"] for entry in journey.entries()} == {"models"}


def test_one_model_can_be_looked_at_by_who_may_use_it(journey: Any) -> None:
    assert journey.client("search").models.retrieve("gpt-4o").id == "gpt-4o"
    with pytest.raises(openai.NotFoundError) as refused:
        journey.client("search").models.retrieve("o3")
    assert refused.value.code == "model_not_found"
    assert journey.client().models.retrieve("o3").id == "o3"
    assert [(entry["team"], entry["model_asked"]) for entry in journey.entries()] == [("search", "gpt-4o"), ("voice", "o3")]


def test_paths_that_are_free_or_unknown_pass_and_are_counted(journey: Any, check_error: Any) -> None:
    assert list(journey.client().files.list()) == []
    error = check_error(journey.send("POST", "/something/new", {"a": 1}), 404, None)
    assert error["message"] == "Invalid URL (POST /v1/something/new)"
    assert journey.send("POST", "/something/new", {"a": 1}, direct=True).json() == {"error": error}  # OpenAI's own words
    files, unknown = journey.entries()
    assert (files["usage_source"], files["cost_picousd"], files["status"]) == ("not_billed", 0, 200)
    assert (unknown["endpoint"], unknown["usage_source"], unknown["status"]) == ("other", "not_billed", 404)


def test_a_billed_path_that_is_not_metered_is_refused(journey: Any) -> None:
    client = journey.client()
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client.images.generate(model="gpt-image-1", prompt="A bill")
    assert refused.value.code == "unmetered_path"
    with pytest.raises(openai.PermissionDeniedError):
        client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", SPEECH))
    assert (journey.entries(), journey.lines()) == ([], [])


def test_a_billed_path_that_is_not_metered_passes_unpriced_where_the_team_allows_it(journey: Any) -> None:
    journey.team("open", unmetered_paths="allow")
    client = journey.client("open")
    assert client.images.generate(model="gpt-image-1", prompt="A bill").usage.output_tokens > 0
    assert client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", SPEECH)).text
    entries = journey.entries()
    assert [(entry["endpoint"], entry["usage_source"], entry["cost_picousd"]) for entry in entries] == [
        ("images", "unknown", None), ("audio/transcriptions", "unknown", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "policy, cost_picousd",
    [
        pytest.param("allow_unpriced", None, id="let through without a price"),
        pytest.param({"price_as": "gpt-4o-mini"}, 100 * 150_000 + 10 * 600_000, id="priced as another"),
    ],
)
def test_a_model_without_a_card_goes_by_the_teams_policy(journey: Any, policy: Any, cost_picousd: int | None) -> None:
    journey.team("curious", unknown_model=policy)
    headers = {"X-Simulator-Fault": "model=ft:gpt-4o:ours", "X-Simulator-Usage": "input_text=100;output_text=10"}
    journey.client("curious").chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Hello"}], extra_headers=headers
    )
    entry = journey.entry()
    journey.place.priced_by_policy.add(entry["exchange_id"])
    assert (entry["model_asked"], entry["model_served"]) == ("gpt-4o", "ft:gpt-4o:ours")
    assert (entry["usage_source"], entry["cost_picousd"]) == ("reported", cost_picousd)
