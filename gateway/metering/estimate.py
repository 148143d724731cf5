"""What a call may use, before it is sent: the tokens that are reserved of a team's tokens per minute and budget."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from gateway.metering.body import CallBody
from gateway.units import Meter, Usage, div_ceil

AUDIO_BASE64_BYTES_PER_TOKEN = 533
"""Input audio is 10 tokens a second (reference/realtime.md section 3). A second of speech that is compressed as far as is usual
(32 kbit/s, the lowest rate of MPEG-1 Layer III) is 4,000 bytes, 5,333 in base64. Whatever is compressed less is overestimated
(telephone audio twice, WAV of 24 kHz twelve times), which its reservation gives back when the usage is reported."""

EstimatePolicy = Literal["learned", "openai"]


class Assumed(Protocol):
    """What is assumed before anything is learned (`estimate` in gateway.yaml)."""

    @property
    def output_tokens(self) -> int: ...
    @property
    def history_input_tokens(self) -> int: ...
    @property
    def image_tokens(self) -> int: ...
    @property
    def file_tokens(self) -> int: ...
    @property
    def bytes_per_token(self) -> int: ...


class AskTokens(msgspec.Struct, frozen=True):
    """The worst case in tokens. Who reserves it clamps the output part to what the bucket can ever hold; never the input."""

    input_tokens: int
    output_tokens: int
    input_audio_tokens: int = 0  # of the input tokens
    audio_out: bool = False  # the output may be audio


def estimate(
    body: CallBody,
    *,
    model_output_tokens_max: int | None,
    learned_output_tokens: int | None,
    learned_input_tokens: int | None,
    settings: Assumed,
    policy: EstimatePolicy = "learned",
) -> AskTokens:
    """Tokens of this call at most, as far as its body tells.

    Input: its text, its token ids, its images, files and audio; where history is kept at OpenAI, what such calls were seen to use (p95), or
    the configured amount on top. Output, for each choice: the cap that is honoured, else what such calls were seen to use
    (p95), else the configured amount; never more than the model can give. Policy "openai" takes the model's maximum where
    no cap is given. Source: design.md section 5, reference/limits-and-errors.md section 2.
    """
    told = div_ceil(body.input_text_bytes, settings.bytes_per_token) + body.input_token_ids + body.images * settings.image_tokens
    audio_tokens = div_ceil(body.audio_base64_bytes, AUDIO_BASE64_BYTES_PER_TOKEN)
    told += body.files * settings.file_tokens + audio_tokens
    if body.history:
        told = told + settings.history_input_tokens if learned_input_tokens is None else max(told, learned_input_tokens)
    output_tokens = _output_tokens(body, model_output_tokens_max, learned_output_tokens, settings, policy)
    return AskTokens(told, output_tokens, audio_tokens, body.audio_out)


def usage_of_ask(ask: AskTokens) -> Usage:
    """The ask as usage, to be priced and booked when nothing better is known. Quantities of 0 are left out.

    Input audio is audio, and so is all output of a call that may answer with it, the dearest it can be; the rest is text.
    """
    quantities = {
        Meter.INPUT_TEXT: ask.input_tokens - ask.input_audio_tokens,
        Meter.INPUT_AUDIO: ask.input_audio_tokens,
        Meter.OUTPUT_AUDIO if ask.audio_out else Meter.OUTPUT_TEXT: ask.output_tokens,
    }
    return {meter: tokens for meter, tokens in quantities.items() if tokens}


def _output_tokens(body: CallBody, model_max: int | None, learned: int | None, settings: Assumed, policy: EstimatePolicy) -> int:
    per_choice = body.output_tokens_max
    if per_choice is None and policy == "openai":
        per_choice = model_max
    if per_choice is None and policy == "learned":
        per_choice = learned
    if per_choice is None:
        per_choice = settings.output_tokens
    if model_max is not None:
        per_choice = min(per_choice, model_max)
    return per_choice * body.choices
