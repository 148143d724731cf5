"""Records to write, and journals written by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest

from gateway.journal.format import AFTER_CRC, CRC, VERSION, SegmentName
from gateway.journal.records import Entry, Intent
from gateway.units import Meter


def an_intent(number: int = 1, **changes: Any) -> Intent:
    intent = Intent(
        exchange_id=f"gx-{number:010x}", session_id=None, team="voice", key="k1", account="openai", endpoint="chat",
        model_asked="gpt-4o", service_tier_asked=None, ask_usage={Meter.INPUT_TEXT: 400, Meter.OUTPUT_TEXT: 1_000},
        ask_cost_picousd=11_000_000_000, price_version="2025-06-01", client_request_id=None, retry_count=0,
        admitted_at_us=1_790_000_000_000_000 + number,
    )  # fmt: skip
    return msgspec.structs.replace(intent, **changes)


def an_entry(number: int = 1, **changes: Any) -> Entry:
    entry = Entry(
        exchange_id=f"gx-{number:010x}", session_id=None, team="voice", key="k1", account="openai", endpoint="chat",
        model_asked="gpt-4o", model_served="gpt-4o-2024-08-06", service_tier="default",
        usage={Meter.INPUT_TEXT: 120, Meter.OUTPUT_TEXT: 80}, details={"reasoning_tokens": 0}, usage_source="reported",
        cost_picousd=1_100_000_001, price_version="2025-06-01", status=200, error_code=None, upstream_request_id="req_1",
        client_request_id=None, admitted_at_us=1_790_000_000_000_000 + number, ended_at_us=1_790_000_001_000_000 + number,
        timings_us={"sent": 90, "last": 900_000}, retry_count=0, outcome="ok", ask_tokens=1_400, streamed=False,
        answer_id=f"chatcmpl-{number}", body_bytes=1_024,
    )  # fmt: skip
    return msgspec.structs.replace(entry, **changes)


def raw_record(payload: bytes, boot: int, sequence: int, version: int = VERSION) -> bytes:
    body = AFTER_CRC.pack(len(payload), boot, sequence, version) + payload
    return CRC.pack(crc32(body)) + body


def put_segment(folder: Path, boot: int, segment: int, content: bytes, worker: str = "w0") -> Path:
    (folder / worker).mkdir(parents=True, exist_ok=True)
    path = folder / worker / SegmentName(boot, segment).file_name
    path.write_bytes(content)
    return path


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """For what another thread does soon; fails after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        pause.wait(0.001)


class Gate:
    """A port to a disk that does not answer before it is opened."""

    def __init__(self) -> None:
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    def sync(self, descriptor: int) -> None:
        assert self._opened.wait(10)


@pytest.fixture(scope="session")
def make() -> Any:
    """The functions of this file: test modules do not import each other."""

    class Make:
        intent = staticmethod(an_intent)
        entry = staticmethod(an_entry)
        record = staticmethod(raw_record)
        segment = staticmethod(put_segment)
        until = staticmethod(wait_until)
        gate = Gate

    return Make
