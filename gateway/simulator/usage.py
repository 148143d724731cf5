"""OpenAI's overlapping usage objects, composed from disjoint quantities. Source: reference/usage-and-pricing.md section 1."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.simulator.draw import Draw
from gateway.units import Meter

CACHED = (Meter.CACHED_TEXT, Meter.CACHED_AUDIO, Meter.CACHED_IMAGE)
WRITTEN = (Meter.CACHE_WRITE_TEXT, Meter.CACHE_WRITE_12H_TEXT)

# What each usage object can tell, and so what X-Simulator-Usage may dictate.
CHAT_METERS = frozenset(
    {Meter.INPUT_TEXT, Meter.INPUT_AUDIO, Meter.CACHED_TEXT, Meter.CACHE_WRITE_TEXT, Meter.OUTPUT_TEXT, Meter.OUTPUT_AUDIO}
)
RESPONSE_METERS = frozenset({Meter.INPUT_TEXT, Meter.CACHED_TEXT, *WRITTEN, Meter.OUTPUT_TEXT})

MALFORMED = ("negative", "string", "missing", "inconsistent", "float", "huge", "array", "null")


def chat_usage(draw: Draw) -> dict[str, Any]:
    """CompletionUsage: the cached part is inside the prompt, reasoning and audio inside the completion."""
    n = draw.quantities.get
    text = sum(n(meter, 0) for meter in (Meter.INPUT_TEXT, Meter.CACHED_TEXT, *WRITTEN))
    audio = n(Meter.INPUT_AUDIO, 0) + n(Meter.CACHED_AUDIO, 0)
    image = n(Meter.INPUT_IMAGE, 0) + n(Meter.CACHED_IMAGE, 0)
    return {
        "prompt_tokens": text + audio + image,
        "completion_tokens": draw.output_text + draw.output_audio,
        "total_tokens": text + audio + image + draw.output_text + draw.output_audio,
        "prompt_tokens_details": {
            "cached_tokens": sum(n(meter, 0) for meter in CACHED),
            "cache_write_tokens": sum(n(meter, 0) for meter in WRITTEN),
            "audio_tokens": audio,
            "text_tokens": text,
            "image_tokens": image,
        },
        "completion_tokens_details": {
            "reasoning_tokens": draw.details.get("reasoning_tokens", 0),
            "audio_tokens": draw.output_audio,
            "text_tokens": draw.output_text,
            "accepted_prediction_tokens": draw.details.get("accepted_prediction_tokens", 0),
            "rejected_prediction_tokens": draw.details.get("rejected_prediction_tokens", 0),
        },
    }


def completion_usage(draw: Draw) -> dict[str, Any]:
    """CompletionUsage without details, as /completions has it."""
    given, output = draw.quantities.get(Meter.INPUT_TEXT, 0), draw.output_text
    return {"prompt_tokens": given, "completion_tokens": output, "total_tokens": given + output}


def response_usage(draw: Draw) -> dict[str, Any]:
    """ResponseUsage: no modalities; cached and written are inside the input, reasoning inside the output."""
    n = draw.quantities.get
    written, written_12h, cached = n(Meter.CACHE_WRITE_TEXT, 0), n(Meter.CACHE_WRITE_12H_TEXT, 0), n(Meter.CACHED_TEXT, 0)
    given = n(Meter.INPUT_TEXT, 0) + cached + written + written_12h
    details: dict[str, Any] = {"cached_tokens": cached, "cache_write_tokens": written + written_12h}
    if written or written_12h:
        details["cache_write_tokens_details"] = {"ttl_30m_tokens": written, "ttl_12h_tokens": written_12h}
    return {
        "input_tokens": given,
        "input_tokens_details": details,
        "output_tokens": draw.output_text,
        "output_tokens_details": {"reasoning_tokens": draw.details.get("reasoning_tokens", 0)},
        "total_tokens": given + draw.output_text,
    }


def tool_usage(draw: Draw) -> dict[str, Any]:
    """`tool_usage` of a response: billable searches, and zeros for the picture tool, which is not simulated."""
    searches = draw.quantities.get(Meter.WEB_SEARCH_CALLS, 0) + draw.quantities.get(Meter.WEB_SEARCH_PREVIEW_CALLS, 0)
    nothing = {"text_tokens": 0, "image_tokens": 0}
    return {
        "web_search": {"num_requests": searches},
        "image_gen": {"input_tokens": 0, "input_tokens_details": nothing, "output_tokens": 0, "total_tokens": 0},
    }


def malform(usage: dict[str, Any], how: str) -> Any:
    """The same usage object, wrong in one way (MALFORMED). What was billed stays what it was."""
    total = "prompt_tokens" if "prompt_tokens" in usage else "input_tokens"
    whole: dict[str, Any] = {
        "negative": {**usage, total: -1},
        "string": {**usage, total: str(usage.get(total))},
        "missing": {name: value for name, value in usage.items() if name != total},
        "inconsistent": {**usage, f"{total}_details": {"cached_tokens": usage.get(total, 0) + 1, "cache_write_tokens": 0}},
        "float": {**usage, total: 0.5},
        "huge": {**usage, total: msgspec.Raw(b"1" + b"0" * 30)},
        "array": [usage],
        "null": None,
    }
    return whole[how]
