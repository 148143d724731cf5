"""Reading what clients send: the model, and what bounds and sizes the call. Bytes in, a value or OpenAI's 400 out.

Only the members the gateway needs are decoded. What it reads must mean the same to OpenAI's parser as to ours, so a name
that is read may stand there once only, escaped or not, and the whole body must be valid UTF-8 and JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.errors import ApiError, invalid_request
from gateway.metering.edit import edit_reads
from gateway.metering.size import prompts_in, size_of, text_or_token_ids
from gateway.metering.span import MEMBERS, Members, Name

MODEL_CHARS_MAX = 200
COUNT_MAX = 2**31  # of n and of caps; no model is near, and sums stay far below 2**53
MEMBERS_MAX = 1_000  # of the outermost object of a large body; OpenAI's calls have less than 50
_LARGE_BYTES = 16_384  # a body below cannot have enough members to hurt
_SHALLOW_LEVELS = 700  # a body with no more brackets cannot be too deep for the parser, which reads about 900 levels
_STACK_MARGIN_FRAMES = 60  # more than between any two places from which one call's body is read
_UTF8_SLICE_BYTES = 1_048_576

_CHAT = frozenset({
    "model", "stream", "stream_options", "service_tier", "max_completion_tokens", "max_tokens", "n", "store",
    "messages", "tools", "functions", "response_format", "modalities",
})  # fmt: skip
_COMPLETION = frozenset({"model", "stream", "stream_options", "service_tier", "max_tokens", "n", "best_of", "prompt", "suffix"})
_RESPONSE = frozenset({
    "model", "stream", "service_tier", "max_output_tokens", "store", "background", "previous_response_id", "conversation",
    "prompt", "input", "instructions", "tools", "text",
})  # fmt: skip
_INPUT = frozenset({"model", "input"})
_CHAT_TEXTS = ("messages", "tools", "functions", "response_format")
_RESPONSE_TEXTS = ("input", "instructions", "tools", "text", "prompt")


class CallBody(msgspec.Struct, frozen=True):
    """What the body of a call says about what it may use."""

    model: str | None
    stream: bool = False
    service_tier: str | None = None
    output_tokens_max: int | None = None  # the largest cap given that OpenAI honours on this endpoint; None: no cap
    choices: int = 1  # n or best_of, the larger, for each prompt; 0: the endpoint makes no output
    audio_out: bool = False  # it may answer with audio, whose tokens no delta shows
    input_text_bytes: int = 0
    input_token_ids: int = 0
    images: int = 0
    files: int = 0
    audio_base64_bytes: int = 0
    history: bool = False  # input is also kept at OpenAI: previous_response_id, conversation or stored prompt
    previous_response_id: str | None = None
    conversation_id: str | None = None
    background: bool = False
    store: bool | None = None
    usage_asked: bool = False  # stream_options.include_usage is true


class _Refused(Exception):
    """Carries the answer out of the readers below; never leaves this module."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


def _total(read: Callable[[bytes], CallBody]) -> Callable[[bytes], CallBody | ApiError]:
    def reader(body: bytes) -> CallBody | ApiError:
        try:
            return read(body)
        except _Refused as refused:
            return refused.error

    reader.__name__, reader.__doc__ = read.__name__, read.__doc__
    return reader


@_total
def read_chat(body: bytes) -> CallBody:
    """POST /chat/completions. Model is required."""
    found = _members(body, _CHAT)
    cap, older_cap = _count(found, "max_completion_tokens"), _count(found, "max_tokens")
    size = size_of(found, _CHAT_TEXTS, body, arrays_min=2)  # messages, and one of content parts
    stream, usage_asked = _streaming(found, body)
    return CallBody(
        model=_model(found),
        stream=stream,
        service_tier=_text(found, "service_tier"),
        output_tokens_max=older_cap if cap is None else max(cap, older_cap or 0),
        choices=_count(found, "n") or 1,
        audio_out="modalities" in found and _audio_out(found["modalities"]),
        input_text_bytes=size.text_bytes,
        images=size.images,
        files=size.files,
        audio_base64_bytes=size.audio_base64_bytes,
        store=_flag(found, "store"),
        usage_asked=usage_asked,
    )


@_total
def read_completion(body: bytes) -> CallBody:
    """POST /completions. Model is required; `max_tokens: 0` is legal there (scoring a prompt with `echo`).

    Each prompt of a list is answered by itself, with as many choices as were asked for.
    """
    found = _members(body, _COMPLETION)
    text_bytes, token_ids = text_or_token_ids(found["prompt"]) if "prompt" in found else (0, 0)
    prompts = prompts_in(found["prompt"]) if "prompt" in found else 1
    stream, usage_asked = _streaming(found, body)
    suffix_bytes = memoryview(found["suffix"]).nbytes if "suffix" in found else 0
    return CallBody(
        model=_model(found),
        stream=stream,
        service_tier=_text(found, "service_tier"),
        output_tokens_max=_count(found, "max_tokens", least=0),
        choices=min(prompts * max(_count(found, "n") or 1, _count(found, "best_of") or 1), COUNT_MAX),
        input_text_bytes=text_bytes + suffix_bytes,
        input_token_ids=token_ids,
        usage_asked=usage_asked,
    )


@_total
def read_response(body: bytes) -> CallBody:
    """POST /responses, and `response.create` on its WebSocket. The model may be absent when a stored prompt is named."""
    found = _members(body, _RESPONSE)
    prompt = _stored_prompt(found)
    previous = _text(found, "previous_response_id")
    conversation = _conversation(found)
    size = size_of(found, _RESPONSE_TEXTS, body)
    return CallBody(
        model=_text(found, "model") or None if prompt else _model(found),
        stream=_flag(found, "stream") or False,
        service_tier=_text(found, "service_tier"),
        output_tokens_max=_count(found, "max_output_tokens"),
        input_text_bytes=size.text_bytes,
        images=size.images,
        files=size.files,
        audio_base64_bytes=size.audio_base64_bytes,
        history=previous is not None or prompt or conversation is not None,
        previous_response_id=previous,
        conversation_id=conversation,
        background=_flag(found, "background") or False,
        store=_flag(found, "store"),
    )


@_total
def read_embedding(body: bytes) -> CallBody:
    """POST /embeddings. Model is required; there is no output."""
    found = _members(body, _INPUT)
    text_bytes, token_ids = text_or_token_ids(found["input"]) if "input" in found else (0, 0)
    return CallBody(model=_model(found), choices=0, input_text_bytes=text_bytes, input_token_ids=token_ids)


@_total
def read_moderation(body: bytes) -> CallBody:
    """POST /moderations. The model is optional; there is no output."""
    found = _members(body, _INPUT)
    size = size_of(found, ("input",), body)
    return CallBody(model=_text(found, "model") or None, choices=0, input_text_bytes=size.text_bytes, images=size.images)


# Members


def _named_few() -> Callable[[type, Any], Name]:
    left = MEMBERS_MAX

    def named(_type: type, text: Any) -> Name:
        nonlocal left
        left -= 1
        if left < 0:
            raise _Refused(invalid_request(f"The body has more than {MEMBERS_MAX} members at its top level."))
        return Name(text)

    return named


def _members(body: bytes | msgspec.Raw, read: frozenset[str], inside: str = "") -> dict[str, msgspec.Raw]:
    """The members in `read`, as raw JSON, and perhaps others. Raises _Refused for what is no object, and for duplicates of those."""
    if type(body) is bytes and len(body) <= _LARGE_BYTES and body.isascii():
        plain = _plain_members(body)
        if plain is not None:
            return plain
    large = memoryview(body).nbytes > _LARGE_BYTES
    decoder = msgspec.json.Decoder(Members, dec_hook=_named_few()) if large else MEMBERS
    try:
        if isinstance(body, bytes):
            _check_utf8(body)
        members = decoder.decode(body)
    except msgspec.ValidationError as wrong:
        raise _Refused(invalid_request("The body must be a JSON object.")) from wrong
    except (msgspec.DecodeError, UnicodeDecodeError) as broken:
        raise _Refused(invalid_request("The body could not be read as JSON. Send one JSON object, encoded in UTF-8.")) from broken
    except RecursionError as deep:
        raise _Refused(_TOO_DEEP) from deep
    found: dict[str, msgspec.Raw] = {}
    for name, value in members.items():
        text = name.text
        if text in read:
            if text in found:
                raise _Refused(invalid_request(f"Duplicate parameter: '{inside}{text}'.", param=inside + text, code="duplicate_parameter"))
            found[text] = value
    return found


_PLAIN: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _plain_members(body: bytes) -> dict[str, msgspec.Raw] | None:
    """All members of an object that a serializer wrote; None: look closer.

    A parser keeps one of two members with the same name. Here none was lost: what was found makes up the whole body. Packed, its
    length alone shows that, since no member is free, nor any escape; with a space behind each comma and colon it is written out and
    compared. Equal, it has as many backslashes, so no name holds a quote; and as many quotes, of which each member has two of its own.
    """
    try:
        found = _PLAIN.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    packed_bytes = 1 + 4 * len(found) + sum(map(len, found)) + sum([memoryview(value).nbytes for value in found.values()])
    if found and len(body) != packed_bytes:
        spaced = b", ".join([b'"%b": %b' % (name.encode(), value) for name, value in found.items()])
        return found if b"{%b}" % spaced == body else None
    return found or None


def _check_utf8(body: bytes) -> None:
    """Raises UnicodeDecodeError. In slices, so that a large body is not held a second time, wider."""
    if body.isascii():
        return
    at = 0
    while at < len(body):
        end = at + _UTF8_SLICE_BYTES
        while end < len(body) and body[end] & 0xC0 == 0x80 and end > at + _UTF8_SLICE_BYTES - 4:
            end -= 1  # not inside a character
        body[at:end].decode()
        at = end


# Values


_TEXT: msgspec.json.Decoder[str | None] = msgspec.json.Decoder(str | None)
_TEXTS: msgspec.json.Decoder[list[str] | None] = msgspec.json.Decoder(list[str] | None)
_FLAG: msgspec.json.Decoder[bool | None] = msgspec.json.Decoder(bool | None)
_COUNT: msgspec.json.Decoder[int | None] = msgspec.json.Decoder(int | None)


def _model(found: dict[str, msgspec.Raw]) -> str:
    model = _text(found, "model")
    if not model:
        raise _Refused(invalid_request("Missing required parameter: 'model'.", param="model", code="missing_required_parameter"))
    return model


def _text(found: dict[str, msgspec.Raw], name: str, inside: str = "") -> str | None:
    value = found.get(name)
    if value is None:
        return None
    try:
        text = _TEXT.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise _Refused(_wrong_type(inside + name, "a string", value)) from wrong
    if text is not None and len(text) > MODEL_CHARS_MAX:
        message = f"Invalid '{inside}{name}': string too long. Expected at most {MODEL_CHARS_MAX} characters, got {len(text)}."
        raise _Refused(invalid_request(message, param=inside + name, code="string_above_max_length"))
    return text


def _flag(found: dict[str, msgspec.Raw], name: str, inside: str = "") -> bool | None:
    value = found.get(name)
    if value is None:
        return None
    try:
        return _FLAG.decode(value)
    except msgspec.DecodeError as wrong:
        raise _Refused(_wrong_type(inside + name, "a boolean", value)) from wrong


def _count(found: dict[str, msgspec.Raw], name: str, least: int = 1) -> int | None:
    value = found.get(name)
    if value is None:
        return None
    try:
        count = _COUNT.decode(value)
    except msgspec.DecodeError as wrong:
        if not bytes(value).removeprefix(b"-").isdigit():
            raise _Refused(_wrong_type(name, "an integer", value)) from wrong
        count = COUNT_MAX + 1  # an integer beyond what msgspec reads
    if count is not None and not least <= count <= COUNT_MAX:
        message = f"Invalid '{name}': expected an integer from {least} to {COUNT_MAX}."
        raise _Refused(invalid_request(message, param=name, code="invalid_value"))
    return count


def _given(found: dict[str, msgspec.Raw], name: str) -> bool:
    return name in found and bytes(found[name]) != b"null"


def _conversation(found: dict[str, msgspec.Raw]) -> str | None:
    """The id of the conversation that the call continues, given as text or as an object with `id`."""
    if not _given(found, "conversation"):
        return None
    if memoryview(found["conversation"])[0] != ord("{"):
        return _text(found, "conversation")
    inner = _members(found["conversation"], frozenset({"id"}), inside="conversation.")
    conversation_id = _text(inner, "id", inside="conversation.")
    if conversation_id is None:
        message = "Missing required parameter: 'conversation.id'."
        raise _Refused(invalid_request(message, param="conversation.id", code="missing_required_parameter"))
    return conversation_id


def _audio_out(modalities: msgspec.Raw) -> bool:
    try:
        return "audio" in (_TEXTS.decode(modalities) or ())
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise _Refused(_wrong_type("modalities", "an array of strings", modalities)) from wrong


def _stored_prompt(found: dict[str, msgspec.Raw]) -> bool:
    if not _given(found, "prompt"):
        return False
    if memoryview(found["prompt"])[0] != ord("{"):
        raise _Refused(_wrong_type("prompt", "an object", found["prompt"]))
    inner = _members(found["prompt"], frozenset({"id"}), inside="prompt.")
    if not _given(inner, "id"):
        raise _Refused(invalid_request("Missing required parameter: 'prompt.id'.", param="prompt.id", code="missing_required_parameter"))
    if memoryview(inner["id"])[0] != ord('"'):
        raise _Refused(_wrong_type("prompt.id", "a string", inner["id"]))
    return True


def _usage_asked(found: dict[str, msgspec.Raw]) -> bool:
    if not _given(found, "stream_options"):
        return False
    if memoryview(found["stream_options"])[0] != ord("{"):
        raise _Refused(_wrong_type("stream_options", "an object", found["stream_options"]))
    options = _members(found["stream_options"], frozenset({"include_usage"}), inside="stream_options.")
    return _flag(options, "include_usage", inside="stream_options.") or False


def _streaming(found: dict[str, msgspec.Raw], body: bytes) -> tuple[bool, bool]:
    """(streams, usage is asked for). Of a stream without, the body is edited: refuses what that edit could not read."""
    stream, usage_asked = _flag(found, "stream") or False, _usage_asked(found)
    if stream and not usage_asked and len(body) > 2 * _SHALLOW_LEVELS and edit_reads(body):
        _check_depth(body)
    return stream, usage_asked


def _check_depth(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") > _SHALLOW_LEVELS:
        try:
            _read_deep_in_the_stack(body, _STACK_MARGIN_FRAMES)
        except RecursionError as deep:
            raise _Refused(_TOO_DEEP) from deep


def _read_deep_in_the_stack(body: bytes, frames: int) -> None:
    """How deep the parser reads depends on the stack above it: what it can read here, it can read from anywhere later."""
    if frames:
        _read_deep_in_the_stack(body, frames - 1)
    else:
        MEMBERS.decode(body)


_TOO_DEEP = invalid_request("The JSON body is nested too deeply.")
_KINDS = {ord('"'): "a string", ord("{"): "an object", ord("["): "an array", ord("t"): "a boolean", ord("f"): "a boolean"}


def _wrong_type(name: str, expected: str, value: msgspec.Raw) -> ApiError:
    got = _KINDS.get(memoryview(value)[0], "a number")
    message = f"Invalid type for '{name}': expected {expected}, but got {got} instead."
    return invalid_request(message, param=name, code="invalid_type")
