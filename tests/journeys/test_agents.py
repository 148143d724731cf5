"""OpenAI's Agents SDK, told of the gateway by its client alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package, without tracing: its exporter posts past any base URL (reference/clients.md section 4)."""
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
    agents = pytest.importorskip("agents")
    agents.set_tracing_disabled(True)
    yield agents
    agents.set_default_openai_client(None, use_for_tracing=False)


@pytest.mark.parametrize("streamed", [pytest.param(False, id="whole"), pytest.param(True, id="streamed")])
@pytest.mark.parametrize("api, endpoint", [("responses", "responses"), ("chat_completions", "chat/completions")])
def test_an_agent_with_a_tool_takes_two_turns(journey: Any, agents: Any, api: str, endpoint: str, streamed: bool) -> None:
    @agents.function_tool
    def bill_of(customer: str) -> str:
        """What a customer owes."""
        return f"{customer} owes 12 dollars"

    async def story() -> Any:
        async with journey.async_client() as client:
            agents.set_default_openai_client(client, use_for_tracing=False)
            agents.set_default_openai_api(api)
            settings = agents.ModelSettings(include_usage=True)  # it asks OpenAI by itself, and others only when told
            agent = agents.Agent(name="Clerk", instructions="Answer in short.", model="gpt-4o", model_settings=settings, tools=[bill_of])
            first = await run(agent, "What is on my bill?")
            return first, await run(agent, [*first.to_input_list(), {"role": "user", "content": "And last month?"}])

    async def run(agent: Any, given: Any) -> Any:
        if not streamed:
            return await agents.Runner.run(agent, given)
        result = agents.Runner.run_streamed(agent, given)
        assert [event async for event in result.stream_events()]
        return result

    first, second = asyncio.run(story())
    assert first.final_output
    assert second.final_output
    entries = journey.entries()
    assert [(entry["endpoint"], entry["usage_source"], entry["streamed"]) for entry in entries] == [(endpoint, "reported", streamed)] * 2
    for entry, result in zip(entries, (first, second), strict=True):
        seen = result.context_wrapper.usage
        given = sum(count for meter, count in entry["usage"].items() if meter.startswith(("input_", "cached_")))
        assert (given, entry["usage"]["output_text"]) == (seen.input_tokens, seen.output_tokens)
    assert entries[1]["usage"]["input_text"] + entries[1]["usage"].get("cached_text", 0) > entries[0]["usage"]["input_text"]
