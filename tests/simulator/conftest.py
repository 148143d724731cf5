from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from gateway.simulator import Line, Simulator, in_thread


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    with in_thread(journal=tmp_path / "account.jsonl") as running:
        yield running


@pytest.fixture
def client(simulator: Simulator) -> Iterator[OpenAI]:
    with OpenAI(base_url=simulator.base_url, api_key="sk-test", max_retries=0) as made:
        yield made


class Http:
    """A plain HTTP client that shows heads and bytes as they are."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._simulator.port, timeout=10)
        try:
            given = {"Authorization": "Bearer sk-test", "Content-Type": "application/json", **(headers or {})}
            data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, given)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()


@pytest.fixture
def http_client(simulator: Simulator) -> Http:
    return Http(simulator)


@pytest.fixture
def last_line(simulator: Simulator) -> Callable[[], Line]:
    """The newest line of the account."""
    return lambda: simulator.account()[-1]


@pytest.fixture
def check_error() -> Callable[..., dict[str, Any]]:
    """The one checker for errors: OpenAI's shape, all four members."""

    def check(status: int, body: bytes, wanted: int, code: str | None = None) -> dict[str, Any]:
        assert status == wanted
        error: dict[str, Any] = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == code
        return error

    return check


@pytest.fixture
def wait_for() -> Callable[[Simulator, int], list[Line]]:
    """The account once it has so many lines: what the simulator writes when it notices that a client has left."""

    def wait(simulator: Simulator, count: int) -> list[Line]:
        deadline_s = time.monotonic() + 10
        while len(lines := simulator.account()) < count:
            assert time.monotonic() < deadline_s, f"{len(lines)} lines of {count}"
            threading.Event().wait(0.002)
        return lines

    return wait


@pytest.fixture
def wait_for_lines(simulator: Simulator, wait_for: Callable[[Simulator, int], list[Line]]) -> Callable[[int], list[Line]]:
    """The same for the simulator of the test."""
    return lambda count: wait_for(simulator, count)
