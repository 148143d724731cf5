"""What a call may use before it is sent."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.snapshot import EstimateSettings
from gateway.metering.body import CallBody
from gateway.metering.estimate import AskTokens, estimate, usage_of_ask
from gateway.units import Meter

SETTINGS = EstimateSettings(output_tokens=1_000, history_input_tokens=2_000, image_tokens=700, file_tokens=900, bytes_per_token=4)


def ask(
    model_max: int | None = None, learned: int | None = None, learned_input: int | None = None, policy: Any = "learned", **body: Any
) -> AskTokens:
    return estimate(
        CallBody(model="m", **body),
        model_output_tokens_max=model_max,
        learned_output_tokens=learned,
        learned_input_tokens=learned_input,
        settings=SETTINGS,
        policy=policy,
    )


INPUTS = [
    pytest.param({"input_text_bytes": 0}, None, 0, id="no text"),
    pytest.param({"input_text_bytes": 1}, None, 1, id="one byte"),
    pytest.param({"input_text_bytes": 4}, None, 1, id="just one token"),
    pytest.param({"input_text_bytes": 5}, None, 2, id="one byte more"),
    pytest.param({"input_token_ids": 17}, None, 17, id="token ids count exactly"),
    pytest.param({"input_text_bytes": 40, "images": 2}, None, 1_410, id="images"),
    pytest.param({"input_text_bytes": 40, "files": 2}, None, 1_810, id="files"),
    pytest.param({"audio_base64_bytes": 533}, None, 1, id="a tenth of a second of audio"),
    pytest.param({"audio_base64_bytes": 534}, None, 2, id="a byte more of it"),
    pytest.param({"input_text_bytes": 40, "audio_base64_bytes": 60 * 5_330}, None, 610, id="a minute of compressed speech, 600 tokens"),
    pytest.param({"input_text_bytes": 40, "history": True}, None, 2_010, id="history, nothing learned"),
    pytest.param({"input_text_bytes": 40, "history": True}, 3_000, 3_000, id="history, learned"),
    pytest.param({"input_text_bytes": 40, "history": True}, 5, 10, id="never less than is there"),
    pytest.param({"input_text_bytes": 40}, 3_000, 10, id="what was learned of histories is not for calls without"),
]


@pytest.mark.parametrize("body, learned_input, tokens", INPUTS)
def test_input(body: dict[str, Any], learned_input: int | None, tokens: int) -> None:
    assert ask(learned_input=learned_input, **body).input_tokens == tokens


OUTPUTS = [
    pytest.param({"output_tokens_max": 50}, {}, 50, id="cap"),
    pytest.param({"output_tokens_max": 50, "choices": 3}, {}, 150, id="cap for each choice"),
    pytest.param({"output_tokens_max": 5_000}, {"model_max": 4_096}, 4_096, id="no cap above what the model can"),
    pytest.param({"output_tokens_max": 50}, {"learned": 10}, 50, id="a cap goes before what was learned"),
    pytest.param({}, {"learned": 10}, 10, id="learned"),
    pytest.param({}, {"learned": 0}, 0, id="learned that there is none"),
    pytest.param({}, {"learned": 5_000, "model_max": 4_096}, 4_096, id="learned, no more than the model can"),
    pytest.param({}, {}, 1_000, id="configured"),
    pytest.param({"choices": 2}, {}, 2_000, id="configured for each choice"),
    pytest.param({}, {"model_max": 4_096}, 1_000, id="configured below the model's maximum"),
    pytest.param({}, {"model_max": 4_096, "learned": 10, "policy": "openai"}, 4_096, id="policy openai takes the maximum"),
    pytest.param({"output_tokens_max": 50}, {"model_max": 4_096, "policy": "openai"}, 50, id="or the cap"),
    pytest.param({}, {"learned": 10, "policy": "openai"}, 1_000, id="or what is configured"),
    pytest.param({"choices": 0}, {"learned": 10}, 0, id="an endpoint without output"),
]


@pytest.mark.parametrize("body, known, tokens", OUTPUTS)
def test_output(body: dict[str, Any], known: dict[str, Any], tokens: int) -> None:
    assert ask(**known, **body).output_tokens == tokens


def test_the_ask_as_usage_leaves_zeros_out() -> None:
    assert usage_of_ask(AskTokens(5, 7)) == {Meter.INPUT_TEXT: 5, Meter.OUTPUT_TEXT: 7}
    assert usage_of_ask(AskTokens(5, 0)) == {Meter.INPUT_TEXT: 5}


def test_the_ask_as_usage_knows_audio() -> None:
    spoken = ask(input_text_bytes=40, audio_base64_bytes=5_330, output_tokens_max=50, audio_out=True)
    assert spoken == AskTokens(20, 50, input_audio_tokens=10, audio_out=True)
    assert usage_of_ask(spoken) == {Meter.INPUT_TEXT: 10, Meter.INPUT_AUDIO: 10, Meter.OUTPUT_AUDIO: 50}
    assert usage_of_ask(ask(audio_base64_bytes=5_330, output_tokens_max=50)) == {Meter.INPUT_AUDIO: 10, Meter.OUTPUT_TEXT: 50}
