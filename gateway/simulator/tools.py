"""Hosted tools of the Responses API: what they did, as output items, and what each costs.

Source: reference/endpoints.md section 4 and rule 10 of reference/usage-and-pricing.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.simulator.call import Call
from gateway.simulator.desk import Desk
from gateway.simulator.draw import Dice
from gateway.simulator.models import Model
from gateway.simulator.refusal import invalid
from gateway.units import Meter, Usage

CONTAINERS = {
    "1g": Meter.CONTAINER_SESSIONS,
    "4g": Meter.CONTAINER_4G_SESSIONS,
    "16g": Meter.CONTAINER_16G_SESSIONS,
    "64g": Meter.CONTAINER_64G_SESSIONS,
}


@dataclass(frozen=True, slots=True)
class ToolItem:
    """One call of a tool: the item as it is when done, the events while it works, and the fee. No fee: not billable."""

    item: dict[str, Any]
    working: tuple[str, ...]  # event types between added and done
    fee: Meter | None


def tools_of(call: Call) -> list[dict[str, Any]]:
    """The tools of a request, checked as far as the simulator reads them."""
    tools = call.array("tools")
    if not all(isinstance(tool, dict) and isinstance(tool.get("type"), str) for tool in tools):
        raise invalid("Invalid type for 'tools': expected an array of objects with a type.", "tools")
    return tools


def use_tools(call: Call, desk: Desk, model: Model) -> list[ToolItem]:
    """What the hosted tools of this request did. Each that is offered is used; of two ways to search, the first."""
    dice, searched, used = desk.dice(call, model), False, []
    for tool in tools_of(call):
        kind = tool["type"]
        if kind.startswith("web_search") and not searched:
            preview, searched = kind.startswith("web_search_preview"), True
            used += _searches(desk, dice, Meter.WEB_SEARCH_PREVIEW_CALLS if preview else Meter.WEB_SEARCH_CALLS)
        elif kind == "file_search":
            found = {"status": "completed", "queries": ["roaming package"], "results": None}
            item = {"id": desk.new_id("fs_"), "type": "file_search_call", **found}
            used.append(ToolItem(item, _working("file_search_call", "searching"), Meter.FILE_SEARCH_CALLS))
        elif kind == "code_interpreter":
            used += _code(desk, dice, tool)
    return used


def fees(items: list[ToolItem]) -> Usage:
    """The fees of these calls, by meter."""
    total: Usage = {}
    for used in items:
        if used.fee:
            total[used.fee] = total.get(used.fee, 0) + 1
    return total


def has_search(call: Call) -> bool:
    """Whether the answer tells `tool_usage`."""
    return any(tool["type"].startswith("web_search") for tool in tools_of(call))


def _searches(desk: Desk, dice: Dice, fee: Meter) -> list[ToolItem]:
    """One or two searches, and at times a page that is opened, which costs nothing."""
    actions: list[tuple[dict[str, Any], Meter | None]] = []
    for number in range(dice.roll("searches", 1, 2)):
        query = f"roaming prices {number}"
        actions.append(({"type": "search", "query": query, "queries": [query]}, fee))
    if dice.roll("opens", 0, 1):
        actions.append(({"type": "open_page", "url": "https://example.com/prices"}, None))
    return [
        ToolItem(
            {"id": desk.new_id("ws_"), "type": "web_search_call", "status": "completed", "action": action},
            _working("web_search_call", "searching"),
            fee_or_none,
        )
        for action, fee_or_none in actions
    ]


def _code(desk: Desk, dice: Dice, tool: dict[str, Any]) -> list[ToolItem]:
    """One or two runs in one container: one session."""
    container = tool.get("container")
    size = container.get("memory_limit") or "1g" if isinstance(container, dict) else "1g"
    if size not in CONTAINERS:
        raise invalid(f"Invalid value for 'memory_limit': expected one of {', '.join(CONTAINERS)}.", "tools")
    container_id = container if isinstance(container, str) else desk.new_id("cntr_")
    items = []
    for run in range(dice.roll("runs", 1, 2)):
        item = {
            "id": desk.new_id("ci_"), "type": "code_interpreter_call", "status": "completed",
            "code": f"print({run})", "container_id": container_id, "outputs": None,
        }  # fmt: skip
        items.append(ToolItem(item, _working("code_interpreter_call", "interpreting"), None if run else CONTAINERS[size]))
    return items


def _working(call_type: str, doing: str) -> tuple[str, ...]:
    return tuple(f"response.{call_type}.{state}" for state in ("in_progress", doing, "completed"))
