"""What OpenAI reports, untangled into disjoint meters. JSON text in, quantities out.

OpenAI's numbers overlap (cached within input, reasoning within output); here each token ends in exactly one meter, so that
pricing has nothing to know. A meter of quantity 0 is left out. Every function raises MeteringLost, and nothing else, when
the report is malformed or contradicts itself: such usage is booked as unknown, never guessed.

Source of all shapes: reference/usage-and-pricing.md section 1 (openai-python 3.54.0, `types/`).
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, TypeVar

import msgspec

from gateway.units import Meter, Usage

Json = bytes | msgspec.Raw
Metered = tuple[Usage, dict[str, int]]
"""Usage, and details: subsets that were already counted (reasoning_tokens, …), never priced."""

QUANTITY_MAX = 2**36  # as the journal keeps; a number beyond is no report, and charged to a limit it would lock a team out for years
REASON_CHARS_MAX = 200


class MeteringLost(Exception):
    """Usage was reported in a way that cannot be trusted. `reason` is clipped and holds no content of the call."""

    def __init__(self, reason: str) -> None:
        self.reason = reason[:REASON_CHARS_MAX]
        super().__init__(self.reason)


Count = Annotated[int, msgspec.Meta(ge=0, le=QUANTITY_MAX)]


class _Split(msgspec.Struct):
    text_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None


class _WriteSplit(msgspec.Struct):
    ttl_30m_tokens: Count | None = None
    ttl_12h_tokens: Count | None = None


class _InputDetails(_Split):
    cached_tokens: Count | None = None
    cached_tokens_details: _Split | None = None
    cache_write_tokens: Count | None = None
    cache_write_tokens_details: _WriteSplit | None = None


class _OutputDetails(_Split):
    reasoning_tokens: Count | None = None
    accepted_prediction_tokens: Count | None = None
    rejected_prediction_tokens: Count | None = None


class _ChatUsage(msgspec.Struct):
    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _ResponseUsage(msgspec.Struct):
    input_tokens: Count
    output_tokens: Count
    total_tokens: Count | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _RealtimeUsage(msgspec.Struct):  # realtime and transcription say token_details, all others tokens_details
    input_tokens: Count
    output_tokens: Count
    total_tokens: Count | None = None
    input_token_details: _InputDetails | None = None
    output_token_details: _OutputDetails | None = None


class _EmbeddingUsage(msgspec.Struct):
    prompt_tokens: Count
    total_tokens: Count | None = None


class _DurationUsage(msgspec.Struct):
    seconds: msgspec.Raw


class _Kind(msgspec.Struct):
    type: str | None = None


_CHAT = msgspec.json.Decoder(_ChatUsage)
_RESPONSE = msgspec.json.Decoder(_ResponseUsage)
_REALTIME = msgspec.json.Decoder(_RealtimeUsage)
_EMBEDDING = msgspec.json.Decoder(_EmbeddingUsage)
_DURATION = msgspec.json.Decoder(_DurationUsage)
_KIND = msgspec.json.Decoder(_Kind)
_ANY = msgspec.json.Decoder(float_hook=Decimal)

_NO_INPUT = _InputDetails()
_NO_OUTPUT = _OutputDetails()
_NO_SPLIT = _Split()
_NO_WRITES = _WriteSplit()


def usage_from_chat(reported: Json) -> Metered:
    """`CompletionUsage` of chat completions, completions and runs."""
    told = _read(_CHAT, reported)
    usage: Usage = {}
    _input(usage, told.prompt_tokens, told.prompt_tokens_details or _NO_INPUT)
    output = told.completion_tokens_details or _NO_OUTPUT
    _output(usage, told.completion_tokens, output)
    return usage, _details(told.prompt_tokens, told.completion_tokens, told.total_tokens, output)


def usage_from_response(reported: Json) -> Metered:
    """`ResponseUsage` of responses, compactions, batches and decisions. Tool fees stand beside it: `tools.tool_usage`."""
    told = _read(_RESPONSE, reported)
    usage: Usage = {}
    _input(usage, told.input_tokens, told.input_tokens_details or _NO_INPUT)
    output = told.output_tokens_details or _NO_OUTPUT
    _output(usage, told.output_tokens, output)
    return usage, _details(told.input_tokens, told.output_tokens, told.total_tokens, output)


def usage_from_realtime(reported: Json) -> Metered:
    """`response.usage` of `response.done`. Modalities differ eightfold in price, so tokens without a split are lost."""
    told = _read(_REALTIME, reported)
    usage: Usage = {}
    given, output = told.input_token_details or _NO_INPUT, told.output_token_details or _NO_OUTPUT
    _check_partition("input", given, told.input_tokens)
    _check_partition("output", output, told.output_tokens)
    _input(usage, told.input_tokens, given)
    _output(usage, told.output_tokens, output)
    return usage, _details(told.input_tokens, told.output_tokens, told.total_tokens, output)


def usage_from_embedding(reported: Json) -> Metered:
    """`usage` of embeddings: input only."""
    told = _read(_EMBEDDING, reported)
    usage: Usage = {Meter.INPUT_TEXT: told.prompt_tokens} if told.prompt_tokens else {}
    return usage, _details(told.prompt_tokens, 0, told.total_tokens, _NO_OUTPUT)


def usage_from_transcription(reported: Json) -> Metered:
    """The tagged union of transcriptions: tokens, or a duration in seconds. Input that is not split is audio."""
    kind = _read(_KIND, reported).type
    if kind == "duration":
        return usage_from_duration(reported)
    if kind != "tokens":
        raise MeteringLost("transcription usage is neither tokens nor duration")
    told = _read(_REALTIME, reported)
    given = told.input_token_details or _NO_SPLIT
    text = given.text_tokens or 0
    _whole("input", text + (given.audio_tokens or 0), told.input_tokens)
    quantities = {Meter.INPUT_TEXT: text, Meter.INPUT_AUDIO: told.input_tokens - text, Meter.OUTPUT_TEXT: told.output_tokens}
    return _nonzero(quantities), _details(told.input_tokens, told.output_tokens, told.total_tokens, _NO_OUTPUT)


def usage_from_duration(reported: Json) -> Metered:
    """`seconds` of audio, of a transcription or (cumulative) of a live session: exact milliseconds, a part of one rounds up."""
    duration_ms = _milliseconds(_read(_DURATION, reported).seconds)
    return ({Meter.DURATION_IN_MS: duration_ms} if duration_ms else {}), {}


def usage_from_speech(reported: Json) -> Metered:
    """`usage` of `speech.audio.done`: text in, audio out."""
    told = _read(_RESPONSE, reported)
    quantities = {Meter.INPUT_TEXT: told.input_tokens, Meter.OUTPUT_AUDIO: told.output_tokens}
    return _nonzero(quantities), _details(told.input_tokens, told.output_tokens, told.total_tokens, _NO_OUTPUT)


def usage_from_images(reported: Json) -> Metered:
    """`usage` of images, and of `tool_usage.image_gen`. Output that is not split is image."""
    told = _read(_RESPONSE, reported)
    usage: Usage = {}
    _input(usage, told.input_tokens, told.input_tokens_details or _NO_INPUT)
    output = told.output_tokens_details or _NO_OUTPUT
    text = output.text_tokens or 0
    _whole("output", text + (output.image_tokens or 0), told.output_tokens)
    usage |= _nonzero({Meter.OUTPUT_TEXT: text, Meter.OUTPUT_IMAGE: told.output_tokens - text})
    return usage, _details(told.input_tokens, told.output_tokens, told.total_tokens, output)


# Untangling


def _input(usage: Usage, total: int, given: _InputDetails) -> None:
    """Split input by modality, then take out of each what was read from and written to the cache.

    Where the report does not split the cached tokens: text first, then audio, then image (reference/realtime.md 6.1).
    """
    audio, image = given.audio_tokens or 0, given.image_tokens or 0
    _whole("input", (given.text_tokens or 0) + audio + image, total)
    text = total - audio - image
    cached_text, cached_audio, cached_image = _cached(given, text, audio)
    text, audio, image = text - cached_text, audio - cached_audio, image - cached_image
    if min(text, audio, image) < 0:
        raise MeteringLost("more cached than there was input of a modality")
    if cached_text:
        usage[Meter.CACHED_TEXT] = cached_text
    if cached_audio:
        usage[Meter.CACHED_AUDIO] = cached_audio
    if cached_image:
        usage[Meter.CACHED_IMAGE] = cached_image
    if given.cache_write_tokens or given.cache_write_tokens_details is not None:
        text, image = _writes(usage, text, image, given)
    if text:
        usage[Meter.INPUT_TEXT] = text
    if audio:
        usage[Meter.INPUT_AUDIO] = audio
    if image:
        usage[Meter.INPUT_IMAGE] = image


def _cached(given: _InputDetails, text: int, audio: int) -> tuple[int, int, int]:
    cached, split = given.cached_tokens, given.cached_tokens_details
    if split is None:
        cached_text = min(cached or 0, text)
        cached_audio = min((cached or 0) - cached_text, audio)
        return cached_text, cached_audio, (cached or 0) - cached_text - cached_audio
    parts = split.text_tokens or 0, split.audio_tokens or 0, split.image_tokens or 0
    if cached is not None and sum(parts) != cached:
        raise MeteringLost(f"cached {cached} is not the sum of its parts")
    return parts


def _writes(usage: Usage, text: int, image: int, given: _InputDetails) -> tuple[int, int]:
    """Take what was written to the cache out of text, then image; written audio has no meter and no known price.

    Without a split all of it was written for 30 minutes (reference/usage-and-pricing.md rule 2.2).
    """
    split = given.cache_write_tokens_details or _NO_WRITES
    half_hour, half_day = split.ttl_30m_tokens or 0, split.ttl_12h_tokens or 0
    written = half_hour + half_day if given.cache_write_tokens is None else given.cache_write_tokens
    _whole("written to cache", half_hour + half_day, written)
    _whole("written to cache", written, text + image)
    if written - half_day:
        usage[Meter.CACHE_WRITE_TEXT] = written - half_day
    if half_day:
        usage[Meter.CACHE_WRITE_12H_TEXT] = half_day
    of_text = min(written, text)
    return text - of_text, image - (written - of_text)


def _output(usage: Usage, total: int, given: _OutputDetails) -> None:
    audio, image = given.audio_tokens or 0, given.image_tokens or 0
    _whole("output", (given.text_tokens or 0) + audio + image, total)
    if total - audio - image:
        usage[Meter.OUTPUT_TEXT] = total - audio - image
    if audio:
        usage[Meter.OUTPUT_AUDIO] = audio
    if image:
        usage[Meter.OUTPUT_IMAGE] = image


def _details(input_tokens: int, output_tokens: int, total: int | None, output: _OutputDetails) -> dict[str, int]:
    if total is not None and total != input_tokens + output_tokens:
        raise MeteringLost(f"total {total} is not input {input_tokens} and output {output_tokens}")
    details = {"total_tokens": input_tokens + output_tokens}
    for name, part in (
        ("reasoning_tokens", output.reasoning_tokens),
        ("prediction_accepted_tokens", output.accepted_prediction_tokens),
        ("prediction_rejected_tokens", output.rejected_prediction_tokens),
    ):
        if part:
            _whole(name, part, output_tokens)
            details[name] = part
    return details


def _whole(what: str, parts: int, whole: int) -> None:
    if parts > whole:
        raise MeteringLost(f"{what}: parts of {parts} exceed the whole of {whole}")


def _check_partition(what: str, given: _Split, total: int) -> None:
    parts = (given.text_tokens or 0) + (given.audio_tokens or 0) + (given.image_tokens or 0)
    if parts != total:
        raise MeteringLost(f"{what}: parts of {parts} are not the whole of {total}")


def _nonzero(quantities: Usage) -> Usage:
    return {meter: quantity for meter, quantity in quantities.items() if quantity}


# Reading

_Told = TypeVar("_Told")


def _read(decoder: msgspec.json.Decoder[_Told], reported: Json) -> _Told:
    try:
        return decoder.decode(reported)
    except msgspec.ValidationError:
        return _read_whole_floats(decoder, reported)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
        raise MeteringLost(f"usage cannot be read: {broken}") from broken


def _read_whole_floats(decoder: msgspec.json.Decoder[_Told], reported: Json) -> _Told:
    """Once more, with numbers like 12.0 taken for the integers they are."""
    try:
        return msgspec.convert(_integers(_ANY.decode(reported)), decoder.type)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidOperation) as wrong:
        raise MeteringLost(f"usage cannot be read: {wrong}") from wrong


def _integers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _integers(inner) for key, inner in value.items()}
    if isinstance(value, Decimal) and value.adjusted() < 16 and value == value.to_integral_value():
        return int(value)
    return value


def _milliseconds(seconds: msgspec.Raw) -> int:
    text = bytes(seconds)
    if not text or text[0] not in b"-0123456789" or len(text) > 28:  # what Decimal computes exactly; no duration has more digits
        raise MeteringLost("seconds is not a number")
    try:
        exact = Decimal(text.decode())
    except (InvalidOperation, UnicodeDecodeError) as wrong:
        raise MeteringLost("seconds is not a number") from wrong
    if exact < 0 or exact.adjusted() > 15 or exact * 1000 > QUANTITY_MAX:
        raise MeteringLost("seconds is out of range")
    if exact.adjusted() < -6:  # under a microsecond; spares the arithmetic of huge negative exponents
        return 1 if exact else 0
    thousand = exact.scaleb(3)
    whole = int(thousand)
    return whole + (thousand != whole)
