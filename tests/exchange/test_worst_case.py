"""What is booked of a call whose end nobody saw, beyond the plain ask: priced as what was seen allows, never below."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gateway.journal.records import Entry, Intent
from gateway.units import Meter

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CALL = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, "stream": True}


def said(text: str, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    event = b"data: " + json.dumps({"id": "chatcmpl-1", "choices": [choice]} | more).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def cut_short(rooms: Any, loopback: Any, folder: Path, chunks: list[bytes], **call: Any) -> tuple[Intent, Entry]:
    """The records of a call whose stream breaks behind these chunks."""
    found: list[tuple[Intent, Entry]] = []

    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, folder) as worker:
            ran = rooms.run(rooms.call(body=CALL | call), loopback.client(), worker)
            await loopback.until(lambda: origin.asked and origin.asked[0].whole)
            origin.connections[0].send(HEAD + b"".join(chunks))
            origin.connections[0].close()
            await loopback.until(lambda: ran.over)
            intents, entries = worker.records()
            found.extend(zip(intents, entries, strict=True))

    loopback.run(test)
    (records,) = found
    return records


def test_more_than_the_ask_was_seen_is_priced_as_more(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    lost = said("!", usage={"prompt_tokens": 1, "completion_tokens": -1})
    intent, entry = cut_short(rooms, loopback, tmp_path, [said("a"), said("b"), said("c"), lost])
    assert intent.ask_usage[Meter.OUTPUT_TEXT] == 2
    assert (entry.usage_source, entry.usage) == ("unknown", intent.ask_usage | {Meter.OUTPUT_TEXT: 4})
    assert intent.ask_cost_picousd is not None
    assert entry.cost_picousd == intent.ask_cost_picousd + 2 * 10_000_000
    assert entry.price_version == intent.price_version == "gpt-4o@2024-10-02"


def test_more_than_the_ask_was_seen_is_taken_from_the_limit_as_well(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker:
            ran = rooms.run(rooms.call(body=CALL), loopback.client(), worker)
            await loopback.until(lambda: origin.asked and origin.asked[0].whole)
            reserved_tokens = worker.taken()["group tpm"]
            lost = said("!", usage={"prompt_tokens": 1, "completion_tokens": -1})
            origin.connections[0].send(HEAD + said("a") + said("b") + said("c") + lost)
            origin.connections[0].close()
            await loopback.until(lambda: ran.over)
            assert worker.taken()["group tpm"] == reserved_tokens + 2

    loopback.run(test)


def test_a_stream_that_broke_before_it_named_its_tier_is_priced_at_the_tier_asked_for(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("asked", "told", "standard")]
    _, asked = cut_short(rooms, loopback, folders[0], [said("a")], service_tier="priority")
    _, told = cut_short(rooms, loopback, folders[1], [said("a", service_tier="default")], service_tier="priority")
    _, standard = cut_short(rooms, loopback, folders[2], [said("a")])
    assert (asked.usage_source, told.usage_source, standard.usage_source) == ("estimated",) * 3
    assert (asked.service_tier, told.service_tier) == (None, "default")
    input_tokens = asked.usage[Meter.INPUT_TEXT]
    assert asked.cost_picousd == input_tokens * 4_250_000 + 17_000_000
    assert told.cost_picousd == told.usage[Meter.INPUT_TEXT] * 2_500_000 + 10_000_000
    assert standard.cost_picousd == standard.usage[Meter.INPUT_TEXT] * 2_500_000 + 10_000_000


def test_an_audio_answer_that_was_cut_is_booked_as_all_the_audio_it_may_have_been(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    audio = {"model": "gpt-4o-realtime-preview", "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
    intent, entry = cut_short(rooms, loopback, tmp_path, [said("a")] * 5, **audio)
    assert (entry.usage_source, entry.usage, entry.cost_picousd) == ("unknown", intent.ask_usage, intent.ask_cost_picousd)
    assert (entry.usage[Meter.OUTPUT_AUDIO], entry.usage.get(Meter.OUTPUT_TEXT)) == (2, None)
    assert entry.cost_picousd == entry.usage[Meter.INPUT_TEXT] * 5_000_000 + 2 * 80_000_000
