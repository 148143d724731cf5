"""The gateway between them, started as users start it; and one test's view of it."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.config.write import new_api_key
from gateway.ledger.questions import SqliteQuestions
from gateway.teams import key_hash

from .client import DEADLINE_S, RawClient
from .upstream import ANSWER, EvilUpstream, Plan, Seen

POLL_S = 0.005
UPSTREAM_KEY = "sk-upstream-77aa0c8a7b3d49d2"
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


class Place:
    """A gateway of two roles over its own folder."""

    def __init__(
        self, root: Path, upstream: EvilUpstream, *, proxy: str = "", account: str = "", teams: dict[str, Any] | None = None
    ) -> None:
        self.root, self.upstream = root, upstream
        self.ledger = SqliteQuestions(root / "ledger.db")
        self.booked: set[str] = set()  # all that was ever seen in the ledger
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
        entries = list(self.ledger.entries(since_us=since_us))
        self.booked.update(entry["exchange_id"] for entry in entries)
        return entries


class Attack:
    """One test's view of a gateway."""

    def __init__(self, place: Place, name: str) -> None:
        self.place, self.upstream, self.name = place, place.upstream, name
        self._since_us = time.time_ns() // 1000
        self._seen, self._booked_before = len(self.upstream.seen), frozenset(place.booked)
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
        """What reached OpenAI in this test, and not what a client of an earlier one had left there unread."""
        return [one for one in self.upstream.seen[self._seen :] if one.header("x-client-request-id") not in self._booked_before]

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
