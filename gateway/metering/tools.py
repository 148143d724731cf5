"""Tool calls that cost a fee besides tokens: counted in a response's output, or told by its `tool_usage`.

Source: reference/usage-and-pricing.md rule 2.10 and reference/endpoints.md sections 3 and 4. MCP calls have no fee.
"""

from __future__ import annotations

import re

import msgspec

from gateway.metering.usage import Count, Json, MeteringLost, usage_from_images
from gateway.units import Meter, Usage

PREVIEW_SEARCH_TOOLS = frozenset({"web_search_preview", "web_search_preview_2025_03_11"})

CHAT_SEARCH_METERS = (  # models that search once in each answer, with no counter in its usage; a new snapshot must not slip through
    (re.compile(r"gpt-.+-search-preview(-\d{4}-\d{2}-\d{2})?"), Meter.WEB_SEARCH_PREVIEW_CALLS),
    (re.compile(r"gpt-.+-search-api(-\d{4}-\d{2}-\d{2})?"), Meter.WEB_SEARCH_CALLS),
)

CONTAINER_METERS = {
    "1g": Meter.CONTAINER_SESSIONS,
    "4g": Meter.CONTAINER_4G_SESSIONS,
    "16g": Meter.CONTAINER_16G_SESSIONS,
    "64g": Meter.CONTAINER_64G_SESSIONS,
}
_NONE = msgspec.Raw()


class _Action(msgspec.Struct):
    type: str | None = None


class _Environment(msgspec.Struct):
    container_id: str | None = None


class _Item(msgspec.Struct):
    type: str | None = None
    action: msgspec.Raw = _NONE
    container_id: str | None = None
    environment: msgspec.Raw = _NONE


class _Tool(msgspec.Struct):
    type: str | None = None
    container: msgspec.Raw = _NONE
    environment: msgspec.Raw = _NONE


class _Container(msgspec.Struct):
    memory_limit: str | None = None


class _Searches(msgspec.Struct):
    num_requests: Count


class _ToolUsage(msgspec.Struct):
    web_search: _Searches | None = None
    image_gen: msgspec.Raw = _NONE


_ITEMS = msgspec.json.Decoder(list[_Item])
_TOOLS = msgspec.json.Decoder(list[_Tool])
_TOOL_USAGE = msgspec.json.Decoder(_ToolUsage | None)
_ACTION = msgspec.json.Decoder(_Action)
_CONTAINER = msgspec.json.Decoder(_Container)
_ENVIRONMENT = msgspec.json.Decoder(_Environment)


def chat_search_usage(model: str | None) -> Usage:
    """One search for the chat models that always search; nothing for all others."""
    if model is not None and "-search-" in model:
        for pattern, meter in CHAT_SEARCH_METERS:
            if pattern.fullmatch(model):
                return {meter: 1}
    return {}


def tool_usage(output: Json, tools: Json, reported: Json) -> tuple[Usage, dict[str, int]]:
    """Fees of a response, from its `output`, `tools` and `tool_usage` as JSON text (each may be empty or null).

    A search is a `web_search_call` whose action is "search"; `tool_usage` knows better which of them are billed. Containers are
    counted once for each id. Tokens of image generation belong to another model: its image tokens stay in usage, where a text
    model has no price for them and the entry is loudly unpriced; its text tokens are kept as details. Raises MeteringLost.
    """
    try:
        return _tool_usage(output, tools, reported)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
        raise MeteringLost(f"tool calls cannot be read: {broken}") from broken


def _tool_usage(output: Json, tools: Json, reported: Json) -> tuple[Usage, dict[str, int]]:
    items = _ITEMS.decode(output) if _has(output, b"_call") else []
    told = _TOOL_USAGE.decode(reported) if _has(reported, b"{") else None
    if not items and told is None:
        return {}, {}
    offered = _TOOLS.decode(tools) if _has(tools, b"{") else []
    searches = sum(item.type == "web_search_call" and _action(item) == "search" for item in items)
    if told is not None and told.web_search is not None:
        searches = told.web_search.num_requests
    preview = any(tool.type in PREVIEW_SEARCH_TOOLS for tool in offered)
    containers = {item.container_id for item in items if item.type == "code_interpreter_call"}
    containers |= {_shell_container(item) for item in items if item.type == "shell_call"}
    counts = {
        Meter.WEB_SEARCH_PREVIEW_CALLS if preview else Meter.WEB_SEARCH_CALLS: searches,
        Meter.FILE_SEARCH_CALLS: sum(item.type == "file_search_call" for item in items),
        _container_meter(offered): len(containers - {None}),
    }
    usage = {meter: count for meter, count in counts.items() if count}
    details: dict[str, int] = {}
    if told is not None and _has(told.image_gen, b"{"):
        drawn, _ = usage_from_images(told.image_gen)
        for meter, tokens in drawn.items():
            if meter.endswith("_image"):
                usage[meter] = tokens
            details[f"image_gen_{meter}_tokens"] = tokens
    return usage, details


def _has(document: Json, mark: bytes) -> bool:
    return mark in bytes(document)


def _action(item: _Item) -> str | None:
    return _ACTION.decode(item.action).type if _has(item.action, b"{") else None


def _shell_container(item: _Item) -> str | None:
    return _ENVIRONMENT.decode(item.environment).container_id if _has(item.environment, b"{") else None


def _container_meter(offered: list[_Tool]) -> Meter:
    """The size its tool asked for. A container that is only named was sized elsewhere and counts as the smallest."""
    for tool in offered:
        for stated in (tool.container, tool.environment):
            if _has(stated, b"memory_limit"):
                limit = _CONTAINER.decode(stated).memory_limit
                if limit is not None and limit not in CONTAINER_METERS:
                    raise MeteringLost("a container of unknown size")
                return CONTAINER_METERS[limit or "1g"]
    return Meter.CONTAINER_SESSIONS
