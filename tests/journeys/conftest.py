"""The whole gateway as users start it, between official clients and the simulator, each a process of its own.

`journey` is one test's view of a gateway that all of them share: its teams, its clients, its part of ledger, account and log.
When the test ends, ledger and account must say the same and the log must hold no error. `start_gateway` gives a test a gateway
of its own, to be killed or looked through. No process may be left over, which is asked of the process table.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import pytest
from openai import AsyncOpenAI, OpenAI

from gateway.config.write import new_api_key
from gateway.ledger.questions import SqliteQuestions
from gateway.simulator import Line, compare
from gateway.teams import key_hash

Value = TypeVar("Value")

DEADLINE_S = 60.0  # only a failing test waits so long
POLL_S = 0.01
UPSTREAM_KEY = "sk-upstream-5e1f0c8a7b3d49d2"  # the account's: must be seen by the simulator and by nobody else
DIRECT = "direct"  # X-Client-Request-Id of calls that go past the gateway: no ledger knows them

GATEWAY_YAML = """\
proxy: {{listen: "127.0.0.1:0", drain_timeout_ms: 5000}}
admin: {{listen: "127.0.0.1:0"}}
accounts:
  openai: {{base_url: "{upstream}", api_key: "${{UPSTREAM_KEY}}", tier: tier-5}}
  impatient: {{base_url: "{upstream}", api_key: "${{UPSTREAM_KEY}}", first_byte_timeout_ms: 300, stall_timeout_ms: 300}}
  nowhere: {{base_url: "http://127.0.0.1:1/v1", api_key: "${{UPSTREAM_KEY}}"}}  # tcpmux: nobody listens, so it is refused at once
journal: {{folder: "{root}/journal"}}
ledger: "sqlite:{root}/ledger.db"
"""
TIERS_YAML = """\
start: tier-5
tiers: {free: {}, tier-1: {}, tier-5: {}}
default_limits:
  tier-1: {rpm: 500, tpm: 200000}
  tier-5: {rpm: 30000, tpm: 150000000}
"""


def until(question: Callable[[], Value], wanted: Callable[[Value], Any], what: str, deadline_s: float = DEADLINE_S) -> Value:
    """Ask again and again until the answer is as wanted; fails with the last answer."""
    end_s = time.monotonic() + deadline_s
    while not wanted(found := question()):
        assert time.monotonic() < end_s, f"{what}: not within {deadline_s} s; last: {found!r}"
        time.sleep(POLL_S)
    return found


class Answer:
    """What came back, as it came. `whole`: it has all the bytes its head or its chunks promised."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes, *, whole: bool) -> None:
        self.status, self.headers, self.body, self.whole = status, headers, body, whole

    def json(self) -> Any:
        return json.loads(self.body)


def request(url: str, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """One request on a connection of its own, by a client that changes nothing. `path` is appended to the URL's own."""
    to = urlsplit(url)
    connection = http.client.HTTPConnection(to.hostname or "", to.port, timeout=DEADLINE_S)
    try:
        connection.request(method, to.path + path, body, dict(headers or {}))
        answer = connection.getresponse()
        shown = {name.lower(): value for name, value in answer.getheaders()}
        try:
            return Answer(answer.status, shown, answer.read(), whole=True)
        except http.client.IncompleteRead as cut:
            return Answer(answer.status, shown, cut.partial, whole=False)
    finally:
        connection.close()


class Process:
    """A child of the tests with its output in files. `ready` is what its first line of output must begin with."""

    def __init__(self, root: Path, name: str, argv: list[str], env: dict[str, str], ready: str) -> None:
        self.out, self.log = root / f"{name}.out", root / f"{name}.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "GATEWAY_"))} | env
        with self.out.open("wb") as out, self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "gateway", *argv], stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=environment, cwd=root
            )
        text = until(self.out.read_text, lambda text: "\n" in text or self.popen.poll() is not None, "a first line of output")
        assert text.startswith(ready), text + self.log.read_text()
        self.ready_text = text.splitlines()[0]

    def stop(self) -> int:
        """SIGTERM, and the exit status; what does not end is killed and -9."""
        self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()


class Place:
    """A configuration folder, the simulator and the gateway over it, and what there is to ask them."""

    def __init__(self, root: Path) -> None:
        self.root, self.config, self.account_file = root, root / "config", root / "account.jsonl"
        self.keys: dict[str, str] = {}
        self.priced_by_policy: set[str] = set()  # exchanges that OpenAI's price list does not know, and a team's file does
        self.ledger = SqliteQuestions(root / "ledger.db")
        self._stack = ExitStack()
        self._clients: dict[str, OpenAI] = {}

    def start(self, tokens_per_second: int = 0) -> None:
        """Simulator first, since the gateway must know its port."""
        self.start_simulator(tokens_per_second)
        self.serve()

    def start_simulator(self, tokens_per_second: int = 0) -> None:
        """The simulator alone, and the configuration of a gateway that calls it."""
        pace = ["--tokens-per-second", str(tokens_per_second)] if tokens_per_second else []
        argv = ["simulator", "--listen", "127.0.0.1:0", "--journal", str(self.account_file), "--api-key", UPSTREAM_KEY, *pace]
        self.simulator = Process(self.root, "simulator", argv, {}, "simulator: listening on ")
        self.upstream_url = self.simulator.ready_text.split()[-1]
        self.write("gateway.yaml", GATEWAY_YAML.format(upstream=self.upstream_url, root=self.root))
        self.write("tiers.yaml", TIERS_YAML)

    def serve(self, **env: str) -> None:
        """Start the gateway as users do; with these variables besides."""
        argv = ["serve", "--config", str(self.config)]
        self.process = Process(self.root, "gateway", argv, {"UPSTREAM_KEY": UPSTREAM_KEY} | env, "gateway: ready on ")
        found = re.fullmatch(r"gateway: ready on (\S+) \(admin (\S+)\)", self.process.ready_text)
        assert found, self.process.ready_text
        self.base_url, self.admin_url = f"{found[1]}/v1", found[2]

    def stop(self) -> None:
        """Both end by themselves when asked, and nothing of them is left."""
        self._stack.close()
        statuses = {"gateway": self.process.stop(), "simulator": self.simulator.stop()}
        assert statuses == {"gateway": 0, "simulator": 0}, self.process.log.read_text()
        until(self.processes, lambda found: not found, "no process left over", 5.0)

    def kill_all(self) -> None:
        """Whatever is left of a test that failed."""
        self._stack.close()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)

    def write(self, name: str, text: str) -> Path:
        """A file of the configuration, put in its place whole."""
        path = self.config / name
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        return new.rename(path)

    def team(self, name: str, *, more_keys: Mapping[str, str] | None = None, revoked: Sequence[str] = (), **settings: Any) -> str:
        """Write a team's file; its first key. A running gateway takes it when it is told to reload, or by itself."""
        first = self.keys.setdefault(name, new_api_key(name))
        keys = [
            {"id": key_id, "hash": f"sha256:{key_hash(key.encode())}", "revoked": key_id in revoked}
            for key_id, key in {f"{name}-1": first, **(more_keys or {})}.items()
        ]
        self.write(f"teams/{name}.yaml", json.dumps({"team": name, "tier": "tier-5", "models": ["*"], "keys": keys} | settings))
        return first

    def client(self, options: dict[str, Any]) -> OpenAI:
        """One client for all tests that ask for the same: to make one takes as long as thirty calls."""
        known = self._clients.get(options["api_key"])
        if known is None:
            known = self._clients[options["api_key"]] = self._stack.enter_context(OpenAI(**options))
        return known

    def admin(self, path: str, method: str = "GET") -> Answer:
        """The admin port's answer."""
        return request(self.admin_url, method, path)

    def metrics(self) -> str:
        return self.admin("/metrics").body.decode()

    def metric(self, name: str, **labels: str) -> float | None:
        """One sample; None: there is none."""
        shown = ",".join(f'{label}="{value}"' for label, value in labels.items())
        found = re.search(rf"^{name}{re.escape('{' + shown + '}') if labels else ''} (\S+)$", self.metrics(), re.MULTILINE)
        return float(found[1]) if found else None

    def reload(self) -> Answer:
        """Have the configuration read now."""
        return self.admin("/admin/v1/reload", "POST")

    def queue_faults(self, faults: str, times: int = 1) -> None:
        """Faults of the simulator for the next calls that name none in a header."""
        order = json.dumps({"faults": [faults], "times": times}).encode()
        assert request(self.upstream_url.removesuffix("/v1"), "POST", "/simulator/faults", order).status == 200

    def account(self, offset: int = 0) -> list[Line]:
        """What the simulator served to the gateway, from a byte of its journal on."""
        with self.account_file.open("rb") as file:
            file.seek(offset)
            lines = msgspec.json.Decoder(Line).decode_lines(file.read())
        return [line for line in lines if line.client_request_id != DIRECT]

    def entries(self) -> list[dict[str, Any]]:
        """The ledger's effective entries, oldest first."""
        return list(self.ledger.entries())

    def processes(self) -> dict[int, list[str]]:
        """The simulator, and everything that serves here, by pid: what runs our modules and was told of this folder."""
        found: dict[int, list[str]] = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                    argv = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    if argv[1:2] == ["-m"] and argv[2].startswith("gateway") and any(str(self.root) in word for word in argv):
                        found[int(folder.name)] = argv
        return found

    def role(self, name: str) -> int:
        """The pid of a role of this gateway: "books" or "worker"."""

        def look() -> list[int]:
            return [pid for pid, argv in self.processes().items() if f"gateway.{name}" in argv]

        return until(look, lambda pids: len(pids) == 1, f"one process that is {name}")[0]

    def settled(self) -> None:
        """Wait until all that was written before now is in the ledger, and no exchange is under way.

        Asking for an object that nobody made is refused only when the books have read every journal to its end, and wakes them.
        """
        bearer = {"Authorization": f"Bearer {self.keys['voice']}"}

        def under_way() -> Any:
            answer = request(self.base_url, "GET", "/responses/resp_nobodys", headers=bearer)
            return self.ledger.open_intents("w0") if answer.status == 404 else answer.body

        until(under_way, lambda found: not found, "all is in the ledger, and nothing is under way")

    def differences(self, since_us: int = 0, offset: int = 0) -> list[Any]:
        """Where ledger and account disagree, from a moment and a place on: of what was billed, and of who was there at all."""
        entries, account = list(self.ledger.entries(since_us=since_us)), self.account(offset)
        booked, served = {entry["exchange_id"] for entry in entries}, {line.client_request_id for line in account}
        return [
            *(found for found in compare(entries, account) if found.exchange_id not in self.priced_by_policy),
            *(("not booked", exchange_id) for exchange_id in served - booked),
            *(("never served", exchange_id) for exchange_id in booked - served),
        ]

    def complaints(self, offset: int = 0) -> list[str]:
        """Lines of the gateway's log from `offset` on that tell of something wrong, or are no log lines."""
        lines = self.process.log.read_bytes()[offset:].decode().splitlines()
        return [line for line in lines if not re.search(r'"level": ?"(debug|info|warning)"', line)]


class Journey:
    """One test's view of a gateway."""

    def __init__(self, place: Place, stack: ExitStack) -> None:
        self.place, self._stack = place, stack
        self.base_url, self.upstream_url = place.base_url, place.upstream_url
        self._since_us = time.time_ns() // 1000
        self._account_bytes = place.account_file.stat().st_size
        self._log_bytes = place.process.log.stat().st_size
        self._expected: list[str] = []

    def team(self, name: str, **settings: Any) -> str:
        """A team for this test, known to the gateway when this returns; its key."""
        key = self.place.team(name, **settings)
        assert self.place.reload().status == 200
        return key

    def client(self, team: str = "voice", **options: Any) -> OpenAI:
        """The official client, synchronous. It retries nothing unless told to."""
        if options:
            return self._stack.enter_context(OpenAI(**self._options(team) | options))
        return self.place.client(self._options(team))

    def async_client(self, team: str = "voice", **options: Any) -> AsyncOpenAI:
        """The same, asynchronous; to be closed by the one who asked: `async with`."""
        return AsyncOpenAI(**self._options(team) | options)

    def _options(self, team: str) -> dict[str, Any]:
        return {"api_key": self.place.keys[team], "base_url": self.base_url, "max_retries": 0, "timeout": DEADLINE_S}

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, *, team: str = "voice", direct: bool = False
    ) -> Answer:
        """One request by a plain HTTP client that shows everything as it is; `direct`: past the gateway."""
        given = {"Authorization": f"Bearer {UPSTREAM_KEY if direct else self.place.keys[team]}", "Content-Type": "application/json"}
        given |= {"X-Client-Request-Id": DIRECT} if direct else {}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return request(self.upstream_url if direct else self.base_url, method, path, data, given | (headers or {}))

    def entries(self) -> list[dict[str, Any]]:
        """The effective entries of this test, once all of them are there; oldest first."""
        self.place.settled()
        return list(self.place.ledger.entries(since_us=self._since_us))

    def entry(self) -> dict[str, Any]:
        """The one entry of this test."""
        (found,) = self.entries()
        return found

    def lines(self, count: int | None = None) -> list[Line]:
        """What the simulator served in this test; with a count, once it has written so many lines."""
        return until(lambda: self.place.account(self._account_bytes), lambda found: count in (None, len(found)), f"{count} lines")

    def expect_log(self, event: str) -> None:
        """This test makes the gateway log an error of this name; without it the test fails."""
        self._expected.append(event)

    def finish(self) -> None:
        """Ledger and account agree, and the log holds no error but those expected."""
        self.place.settled()
        until(lambda: self.place.differences(self._since_us, self._account_bytes), lambda found: not found, "ledger and account agree", 5.0)
        complaints = self.place.complaints(self._log_bytes)
        for event in self._expected:
            assert any(f'"event":"{event}"' in line.replace('": "', '":"') for line in complaints), f"{event} was not logged"
        assert [line for line in complaints if not any(event in line for event in self._expected)] == []


@contextmanager
def _started(root: Path, teams: dict[str, dict[str, Any]], tokens_per_second: int = 0) -> Iterator[Place]:
    place = Place(root)
    for name, settings in ({"voice": {}} | teams).items():
        place.team(name, **settings)
    try:
        place.start(tokens_per_second)
        yield place
        place.stop()
    finally:
        place.kill_all()


SHARED_TEAMS: dict[str, dict[str, Any]] = {
    "search": {"models": ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"]},
    "draining": {"on_client_gone": "drain", "drain_seconds_max": 10},
    "hasty": {"account": "impatient"},
    "lost": {"account": "nowhere"},
}


@pytest.fixture(scope="session")
def shared_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with _started(tmp_path_factory.mktemp("journeys"), SHARED_TEAMS) as place:
        yield place
        assert place.differences() == []
        assert place.ledger.recount().differences == ()


@pytest.fixture
def journey(shared_place: Place) -> Iterator[Journey]:
    with ExitStack() as stack:
        started = Journey(shared_place, stack)
        yield started
        started.finish()


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Journey]]:
    """A gateway of its own: `start_gateway(tokens_per_second=0, **teams)`. The test says itself when its books are in order."""
    with _starter(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def start_gateway_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Journey]]:
    """The same for all tests of a module."""
    with _starter(tmp_path_factory.mktemp("gateway")) as start:
        yield start


@contextmanager
def _starter(root: Path) -> Iterator[Callable[..., Journey]]:
    with ExitStack() as stack:

        def start(tokens_per_second: int = 0, **teams: dict[str, Any]) -> Journey:
            place = stack.enter_context(_started(root, teams, tokens_per_second))
            return Journey(place, stack)

        yield start


@pytest.fixture
def check_error() -> Callable[..., dict[str, Any]]:
    """The one checker of errors: the status, OpenAI's shape with all four members, and the code."""

    def check(answer: Answer, status: int, code: str | None, kind: str = "invalid_request_error") -> dict[str, Any]:
        assert (answer.status, answer.headers["content-type"]) == (status, "application/json"), answer.body
        error: dict[str, Any] = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["code"], error["type"]) == (code, kind)
        return error

    return check


@pytest.fixture(name="until", scope="session")
def _until() -> Callable[..., Any]:
    return until
