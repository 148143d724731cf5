"""The whole gateway as users start it, between a client and an OpenAI that are raw sockets and say what a case makes them say.

The client's bytes are written by hand and its answers read by h11. OpenAI's end reads requests with h11, strictly: what that
does not take for one request is a fault of the gateway's, and fails whatever test is running. What it answers, a case plants
under a name; the request carries the name in `x-attack`, so that all cases share one gateway. Requests that name nothing
get a good answer.

`attack` is one test's view. When the test ends, the same worker (by pid) must serve a good call, the ledger must hold one
entry for each request that reached OpenAI and no other, and the log no error.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11
import pytest

from gateway.config.write import new_api_key
from gateway.ledger.questions import SqliteQuestions
from gateway.teams import key_hash

DEADLINE_S = 30.0
POLL_S = 0.005
UPSTREAM_KEY = "sk-upstream-77aa0c8a7b3d49d2"
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
ANSWER = json.dumps({"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o-2024-08-06", "choices": [], "usage": USAGE}).encode()
CHAT = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}).encode()
BODY_BYTES_MAX = 4_194_304  # of these gateways
HEAD_BYTES_MAX = 65_536

GATEWAY_YAML = """\
proxy: {{listen: "127.0.0.1:0", drain_timeout_ms: 2000, body_bytes_max: 4194304{proxy}}}
admin: {{listen: "127.0.0.1:0"}}
accounts:
  openai: {{base_url: "{upstream}", api_key: "${{UPSTREAM_KEY}}", tier: tier-5{account}}}
journal: {{folder: "{root}/journal"}}
ledger: "sqlite:{root}/ledger.db"
"""
TIERS_YAML = """\
start: tier-5
tiers: {tier-5: {}}
default_limits: {tier-5: {rpm: 1000000, tpm: 1000000000}}
"""


def until(question: Callable[[], Any], wanted: Callable[[Any], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Ask again and again until the answer is as wanted; fails with the last answer."""
    end_s = time.monotonic() + deadline_s
    while not wanted(found := question()):
        assert time.monotonic() < end_s, f"{what}: not within {deadline_s} s; last: {found!r}"
        time.sleep(POLL_S)
    return found


def counted(body: bytes, status: str = "200 OK", lines: str = "content-type: application/json\r\n") -> bytes:
    """A whole answer as OpenAI would frame it."""
    return f"HTTP/1.1 {status}\r\n{lines}content-length: {len(body)}\r\n\r\n".encode("latin-1") + body


# OpenAI's end


@dataclass
class Seen:
    """A request as h11 read it at OpenAI's end."""

    connection: int
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name]
        assert len(found) < 2, f"{name} is there {len(found)} times"
        return found[0] if found else None


class Line:
    """OpenAI's end of one connection, to be answered on."""

    def __init__(self, sock: socket.socket, number: int, upstream: EvilUpstream) -> None:
        self.sock, self.number, self._upstream = sock, number, upstream
        self.answered = False
        self._reader = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)

    def send(self, data: bytes) -> None:
        """May fail: whoever is sent garbage may have closed."""
        with suppress(OSError):
            self.sock.sendall(data)

    def drip(self, data: bytes) -> None:
        """One byte a packet."""
        for place in range(len(data)):
            self.send(data[place : place + 1])

    def reset(self) -> None:
        """Close so that the other side sees a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def close(self) -> None:
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR) if isinstance(self.sock, ssl.SSLSocket) else None
        self.sock.close()

    def closed_by_gateway(self) -> bool:
        """Wait for the other side to close; True when it does."""
        with suppress(OSError):
            while self.sock.recv(65_536):
                pass
        return True

    def serve(self) -> None:
        """Requests, one after the other, until somebody closes."""
        with suppress(OSError):
            while (request := self._request()) is not None:
                if self.answered:
                    self.answered = False  # while the request was still coming
                    self._upstream.seen.append(request)
                else:
                    self._upstream.answer(self, request)
                if self.sock.fileno() < 0 or self._reader.our_state is h11.MUST_CLOSE:
                    return
                self._reader.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                self._reader.send(h11.EndOfMessage())
                if self._reader.our_state is not h11.DONE or self._reader.their_state is not h11.DONE:
                    return
                self._reader.start_next_cycle()

    def _request(self) -> Seen | None:
        head: h11.Request | None = None
        body: list[bytes] = []
        while True:
            try:
                event = self._reader.next_event()
            except h11.RemoteProtocolError as error:
                self._upstream.faults.append(f"h11 at OpenAI's end: {error}")
                return None
            if event is h11.NEED_DATA:
                if self._upstream.early is not None and head is not None:
                    self.send(self._upstream.early)
                    self.answered, self._upstream.early = True, None
                data = self.sock.recv(262_144)
                if not data:  # closed behind a request, or given up inside one
                    return None
                self._upstream.raw_bytes += len(data)
                self._reader.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                lines = [(name.decode(), value.decode("latin-1")) for name, value in head.headers]
                return Seen(self.number, head.method.decode(), head.target.decode("latin-1"), lines, b"".join(body))
            else:
                return None


Plan = Callable[[Line, Seen], None]


class EvilUpstream:
    """Listens, reads strictly, and answers as planted: `plans[name]` for requests that carry `x-attack: name`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.plans: dict[str, Plan] = {}
        self.seen: list[Seen] = []
        self.faults: list[str] = []
        self.lines: list[Line] = []
        self.raw_bytes = 0
        self.early: bytes | None = None  # sent once, to the next request whose body is still coming
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def answer(self, line: Line, request: Seen) -> None:
        self.seen.append(request)
        plan = self.plans.get(request.header("x-attack") or "")
        if plan is None:
            line.send(counted(b"" if request.method == "HEAD" else ANSWER))
        else:
            plan(line, request)

    def close(self) -> None:
        self._listener.close()
        for line in self.lines:
            line.close()

    def _accept(self) -> None:
        for number in count():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock, number), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        if self._tls is not None:
            try:
                sock = self._tls.wrap_socket(sock, server_side=True)
            except OSError:
                return
        line = Line(sock, number, self)
        self.lines.append(line)
        line.serve()
        line.close()


# The client's end


@dataclass
class Answer:
    """One answer as h11 read it. `whole`: it ended as its framing said; a cut one is not."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool
    interim: list[int] = field(default_factory=list)

    def json(self) -> Any:
        return json.loads(self.body)


class RawClient:
    """A client that writes any bytes and reads answers strictly, one after the other."""

    def __init__(self, base_url: str, tls: ssl.SSLContext | None = None) -> None:
        to = urlsplit(base_url)
        self.sock = socket.create_connection((to.hostname or "", to.port or 0), timeout=DEADLINE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="127.0.0.1")
        self.unread = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> RawClient:
        """All of it, or as much as is taken before the gateway closes."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)
        return self

    def answer(self, method: str = "GET") -> Answer:
        """The next answer, to a request of this method. Fails on what h11 does not take for one."""
        reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
        reader.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(self.unread) if self.unread else None
        head: h11.Response | None = None
        interim: list[int] = []
        body: list[bytes] = []
        whole = False
        while not whole:
            try:
                event = reader.next_event()
            except h11.RemoteProtocolError:
                if head is None:
                    raise
                break  # cut
            if event is h11.NEED_DATA:
                try:
                    data = self.sock.recv(262_144)
                except ConnectionResetError:
                    break
                assert data or head is not None or reader.trailing_data[0], "closed without an answer"
                reader.receive_data(data)
            elif isinstance(event, h11.InformationalResponse):
                interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                whole = True
            else:
                break
        assert head is not None, "no answer"
        self.unread = bytes(reader.trailing_data[0])
        names = [name for name, _ in head.headers]
        for once in (b"content-length", b"transfer-encoding", b"x-request-id", b"content-type"):
            assert names.count(once) < 2, f"{once!r} is there {names.count(once)} times"
        headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        return Answer(head.status_code, headers, b"".join(body), whole, interim)

    def closed(self) -> bool:
        """Wait for the gateway to close; fails on bytes behind the last answer, and when it does not close."""
        assert self.unread == b""
        try:
            rest = self.sock.recv(65_536)
        except ConnectionResetError:
            return True
        assert rest == b"", rest
        return True


# The gateway


class Place:
    """A gateway of two roles over its own folder."""

    def __init__(
        self, root: Path, upstream: EvilUpstream, *, proxy: str = "", account: str = "", teams: dict[str, Any] | None = None
    ) -> None:
        self.root, self.upstream = root, upstream
        self.ledger = SqliteQuestions(root / "ledger.db")
        self.keys = {name: new_api_key(name) for name in ("voice", *(teams or {}))}
        config = root / "config"
        (config / "teams").mkdir(parents=True)
        text = GATEWAY_YAML.format(upstream=upstream.url, root=root, proxy=proxy, account=account)
        (config / "gateway.yaml").write_text(text)
        (config / "tiers.yaml").write_text(TIERS_YAML)
        for name, key in self.keys.items():
            settings = {"team": name, "tier": "tier-5", "models": ["*"]} | (teams or {}).get(name, {})
            keys = [{"id": f"{name}-1", "hash": f"sha256:{key_hash(key.encode())}"}]
            (config / f"teams/{name}.yaml").write_text(json.dumps(settings | {"keys": keys}))
        self.log, out = root / "gateway.log", root / "gateway.out"
        env = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "GATEWAY_"))}
        with out.open("wb") as stdout, self.log.open("wb") as stderr:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve", "--config", str(config)],
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=env | {"UPSTREAM_KEY": UPSTREAM_KEY}, cwd=root,
            )  # fmt: skip
        ready = until(out.read_text, lambda text: "\n" in text or self.popen.poll() is not None, "a first line of output")
        found = re.match(r"gateway: ready on (\S+) \(admin (\S+)\)", ready)
        assert found, ready + self.log.read_text()
        self.base_url, self.admin_url = found[1], found[2]
        self.worker_pid = self.role("worker")

    def role(self, name: str) -> int:
        """The pid of "books" or "worker"."""
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError):
                    argv = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    if f"gateway.{name}" in argv and argv[-2] == str(self.popen.pid):
                        return int(folder.name)
        raise AssertionError(f"no process is {name}")

    def memory_bytes(self) -> int:
        """What the worker alone holds: private memory."""
        text = Path(f"/proc/{self.worker_pid}/smaps_rollup").read_text()
        return sum(int(found) for found in re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", text, re.MULTILINE)) * 1024

    def open_files(self) -> int:
        """Descriptors of the worker."""
        return len(list(Path(f"/proc/{self.worker_pid}/fd").iterdir()))

    def metrics(self) -> str:
        """What the books export."""
        with RawClient(self.admin_url) as client:
            return client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").answer().body.decode()

    def stop(self) -> None:
        self.popen.send_signal(signal.SIGTERM)
        try:
            assert self.popen.wait(DEADLINE_S) == 0, self.log.read_text()
        finally:
            self.kill()

    def kill(self) -> None:
        """Whatever is left of it: its roles end with it."""
        self.popen.kill()
        self.popen.wait()

    def client(self, tls: ssl.SSLContext | None = None) -> RawClient:
        return RawClient(self.base_url, tls)

    def request(self, body: bytes = CHAT, lines: str = "", *, target: str = "/v1/chat/completions", team: str = "voice") -> bytes:
        """A whole POST."""
        return self.head("POST", target, f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{lines}", team) + body

    def head(self, method: str, target: str, lines: str = "", team: str = "voice", version: str = "HTTP/1.1") -> bytes:
        """A head with a good key and a host."""
        head = f"{method} {target} {version}\r\nHost: gateway\r\nAuthorization: Bearer {self.keys[team]}\r\n{lines}\r\n"
        return head.encode("latin-1")

    def settled(self, since_us: int) -> list[dict[str, Any]]:
        """Entries since then, once all that was written before now is in the ledger and nothing is under way."""

        def under_way() -> Any:
            with self.client() as client:  # told only when the books have read every journal to its end
                status = client.send(self.head("GET", "/v1/responses/resp_nobodys", "Connection: close\r\n")).answer().status
            return self.ledger.open_intents("w0") if status == 404 else status

        until(under_way, lambda found: not found, "all is in the ledger, and nothing is under way")
        return list(self.ledger.entries(since_us=since_us))


class Attack:
    """One test's view of a gateway."""

    def __init__(self, place: Place, name: str) -> None:
        self.place, self.upstream, self.name = place, place.upstream, name
        self._since_us = time.time_ns() // 1000
        self._seen = len(self.upstream.seen)
        self._log_bytes = place.log.stat().st_size
        self.expected_log: set[str] = set()
        self.may_be_cut: set[str] = set()  # outcomes of calls that ended while they were on their way: booked, and not seen whole
        self.client, self.head, self.until = place.client, place.head, until

    def plan(self, plan: Plan | bytes) -> str:
        """Plant an answer for this test; the header line that asks for it."""
        raw = plan
        self.upstream.plans[self.name] = (lambda line, _: line.send(raw)) if isinstance(raw, bytes) else raw
        return f"x-attack: {self.name}\r\n"

    def request(self, body: bytes = CHAT, lines: str = "", **options: Any) -> bytes:
        return self.place.request(body, lines, **options)

    def with_key(self, raw: bytes) -> bytes:
        """Bytes with the team's key where they say KEY."""
        return raw.replace(b"KEY", self.place.keys["voice"].encode())

    def seen(self) -> list[Seen]:
        """What reached OpenAI in this test."""
        return self.upstream.seen[self._seen :]

    def entries(self) -> list[dict[str, Any]]:
        return self.place.settled(self._since_us)

    def entry(self) -> dict[str, Any]:
        (found,) = self.entries()
        return found

    def check(self) -> None:
        """One entry for each request that reached OpenAI, and the same worker serves on."""
        entries = {entry["exchange_id"]: entry["outcome"] for entry in self.entries()}
        reached = [str(seen.header("x-client-request-id")) for seen in self.seen()]
        assert len(reached) == len(set(reached))
        assert set(reached) <= set(entries)
        cut_off = {outcome for exchange_id, outcome in entries.items() if exchange_id not in reached}
        assert cut_off <= self.may_be_cut, "booked, and never at OpenAI"
        assert self.upstream.faults == []
        with self.client() as client:
            got = client.send(self.request()).answer("POST")
            assert (got.status, got.body) == (200, ANSWER)
        assert self.place.role("worker") == self.place.worker_pid
        lines = self.place.log.read_bytes()[self._log_bytes :].decode().splitlines()
        wrong = [line for line in lines if not re.search(r'"level": ?"(debug|info|warning)"', line)]
        assert [line for line in wrong if not any(event in line for event in self.expected_log)] == []


@contextmanager
def _started(root: Path, tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[Place]:
    upstream = EvilUpstream(tls)
    place = Place(root, upstream, **options)
    try:
        yield place
        place.stop()
    finally:
        place.kill()
        upstream.close()


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The gateway that most cases share."""
    teams = {"draining": {"on_client_gone": "drain", "drain_seconds_max": 10}, "open": {"unknown_model": "allow_unpriced"}}
    with _started(tmp_path_factory.mktemp("attacks"), teams=teams) as started:
        yield started
        assert started.ledger.recount().differences == ()


@pytest.fixture(scope="session")
def hasty_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One that waits for nobody."""
    proxy = ", head_timeout_ms: 700, body_timeout_ms: 700, idle_timeout_ms: 700, write_timeout_ms: 1500"
    with _started(tmp_path_factory.mktemp("hasty"), proxy=proxy, account=", first_byte_timeout_ms: 700, stall_timeout_ms: 700") as started:
        yield started


def _attack_on(place: Place, request: pytest.FixtureRequest) -> Iterator[Attack]:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[-80:].strip("-")
    started = Attack(place, name)
    yield started
    started.check()


@pytest.fixture
def attack(place: Place, request: pytest.FixtureRequest) -> Iterator[Attack]:
    yield from _attack_on(place, request)


@pytest.fixture
def hasty_attack(hasty_place: Place, request: pytest.FixtureRequest) -> Iterator[Attack]:
    yield from _attack_on(hasty_place, request)


@pytest.fixture
def start_place(tmp_path: Path) -> Callable[..., Any]:
    """A gateway of its own: a context manager."""
    return lambda **options: _started(tmp_path, **options)


@pytest.fixture(name="until")
def _until() -> Callable[..., Any]:
    return until


@pytest.fixture(scope="session")
def words() -> Any:
    """The names of this file: test modules do not import each other."""

    class Names:
        chat, usage, answer = CHAT, USAGE, ANSWER
        body_bytes_max, head_bytes_max = BODY_BYTES_MAX, HEAD_BYTES_MAX
        counted = staticmethod(counted)

    return Names
