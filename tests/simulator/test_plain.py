"""Embeddings, moderations, models, pictures, transcriptions, keys, headers, and paths that are none."""

from __future__ import annotations

import io
import struct
import wave

import openai
import pytest
from openai import OpenAI

from gateway.simulator import in_thread
from gateway.units import Meter


@pytest.mark.parametrize(
    "given, tokens, count",
    [
        pytest.param("abcde", 2, 1, id="a string"),
        pytest.param(["abcd", "abcd"], 2, 2, id="strings"),
        pytest.param([5, 6, 7], 3, 1, id="token ids"),
        pytest.param([[5, 6, 7], [8]], 4, 2, id="lists of token ids"),
    ],
)
def test_embeddings_count_what_goes_in(client, last_line, given, tokens, count):
    answer = client.embeddings.create(model="text-embedding-3-small", input=given)
    assert (answer.usage.prompt_tokens, len(answer.data)) == (tokens, count)
    assert last_line().quantities == {Meter.INPUT_TEXT: tokens}
    assert last_line().cost_picousd == tokens * 20_000


def test_embeddings_are_the_same_as_floats_and_as_base64(client):
    floats = client.embeddings.create(model="text-embedding-3-large", input="a", encoding_format="float", dimensions=8).data[0].embedding
    decoded = client.embeddings.create(model="text-embedding-3-large", input="a", dimensions=8).data[0].embedding
    assert len(decoded) == 8
    assert struct.pack("<8f", *floats) == struct.pack("<8f", *decoded)


@pytest.mark.parametrize("given", [None, [], [1, "a"], 5], ids=["none", "empty", "mixed", "a number"])
def test_embeddings_of_nothing_are_refused(http_client, check_error, given):
    status, _, body = http_client.send("POST", "/v1/embeddings", {"model": "text-embedding-3-small", "input": given})
    assert check_error(status, body, 400)["param"] == "input"


def test_moderations_are_free(client, last_line):
    answer = client.moderations.create(input=["a", "b"])
    assert [result.flagged for result in answer.results] == [False, False]
    assert (last_line().kind, last_line().cost_picousd, last_line().quantities) == ("free", 0, {})


def test_models_can_be_listed_and_read(client):
    names = [model.id for model in client.models.list()]
    assert {"gpt-4o", "gpt-4o-realtime-preview", "gpt-4o-2024-08-06", "omni-moderation-latest"} <= set(names)
    assert len(names) == len(set(names))
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("gpt-4")
    assert refused.value.code == "model_not_found"


def test_pictures_are_billed_in_tokens(client, last_line):
    answer = client.images.generate(model="gpt-image-2", prompt="A bill", n=2)
    assert len(answer.data) == 2
    assert answer.usage.output_tokens == 2112
    assert last_line().cost_picousd == answer.usage.input_tokens * 5_000_000 + 2112 * 30_000_000


def recording(seconds: int) -> tuple[str, bytes]:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 24_000, 0, "NONE", "not compressed"))
        sound.writeframes(bytes(48_000 * seconds))
    return "call.wav", file.getvalue()


def test_transcriptions_are_billed_in_tokens(client, last_line):
    usage = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=recording(3)).usage
    assert (usage.type, usage.input_token_details.audio_tokens) == ("tokens", 30)
    assert last_line().cost_picousd == usage.input_tokens * 2_500_000 + usage.output_tokens * 10_000_000


def test_transcriptions_are_billed_by_the_minute(client, last_line):
    usage = client.audio.transcriptions.create(model="whisper-1", file=recording(3)).usage
    assert (usage.type, usage.seconds) == ("duration", 3)
    assert last_line().quantities == {Meter.DURATION_IN_MS: 3000}
    assert last_line().cost_picousd == 300_000_000


def test_transcriptions_are_streamed(client, last_line):
    with client.audio.transcriptions.create(model="gpt-4o-mini-transcribe", file=recording(1), stream=True) as stream:
        *deltas, done = list(stream)
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text
    assert last_line().quantities[Meter.OUTPUT_TEXT] == done.usage.output_tokens == len(deltas)


def test_a_transcription_of_nothing_is_refused(http_client, check_error):
    form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--x--\r\n'
    status, _, body = http_client.send("POST", "/v1/audio/transcriptions", form, {"Content-Type": "multipart/form-data; boundary=x"})
    assert check_error(status, body, 400)["param"] == "file"


def test_what_only_passes_through_is_empty(client):
    assert client.files.list().data == []
    assert client.batches.list().data == []


@pytest.mark.parametrize("method, path", [("POST", "/v1/foo"), ("GET", "/v1/chat/completions"), ("PUT", "/v1/models")])
def test_a_path_that_is_none_is_told_so(http_client, check_error, last_line, method, path):
    status, _, body = http_client.send(method, path)
    assert check_error(status, body, 404)["message"] == f"Invalid URL ({method} {path})"
    assert (last_line().kind, last_line().path) == ("refused", path)


def test_paths_go_without_v1_too(http_client, last_line):
    status, _, _ = http_client.send("POST", "/embeddings", {"model": "text-embedding-3-small", "input": "a"})
    assert (status, last_line().path) == (200, "/v1/embeddings")


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer  ", "Basic abc"])
def test_a_key_is_needed(http_client, check_error, given):
    status, headers, body = http_client.send("GET", "/v1/models", headers={"Authorization": given})
    assert check_error(status, body, 401)["type"] == "invalid_request_error"
    assert headers["x-request-id"].startswith("req_")


def test_the_one_key_is_checked_and_never_shown(tmp_path):
    with (
        in_thread(journal=tmp_path / "account", api_key="sk-the-right-key") as simulator,
        OpenAI(base_url=simulator.base_url, api_key="sk-the-right-key", max_retries=0) as client,
    ):
        client.models.list()
        with pytest.raises(openai.AuthenticationError) as refused:
            client.with_options(api_key="sk-another-long-key").models.list()
    assert refused.value.code == "invalid_api_key"
    assert "sk-another-long-key" not in str(refused.value)


def test_every_answer_tells_its_request_and_what_the_organization_has_left(http_client):
    seen = set()
    for path in ("/v1/models", "/v1/foo"):
        _, headers, _ = http_client.send("GET", path)
        seen.add(headers["x-request-id"])
        assert headers["openai-organization"] == "org-simulator"
        assert headers["openai-version"] == "2020-10-01"
        assert headers["openai-processing-ms"].isdigit()
        assert headers["x-ratelimit-limit-requests"] == "10000"
        assert headers["x-ratelimit-reset-tokens"] == "2ms"
    assert len(seen) == 2
