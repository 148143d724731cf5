"""Where clients get in: IPv4, IPv6, a Unix socket, several at once, and sockets that systemd keeps."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

PATIENCE_S = 60.0  # only a failing test waits so long
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is on my bill?"}]}

ACTIVATED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "gateway.socket"}
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""  # what systemd does between fork and exec


def listen_at(place: Any, proxy: str, admin: str = '"127.0.0.1:0"') -> None:
    """Have the configuration say so."""
    text = (place.config / "gateway.yaml").read_text().replace('proxy: {listen: "127.0.0.1:0"', f"proxy: {{listen: {proxy}")
    place.write("gateway.yaml", text.replace('admin: {listen: "127.0.0.1:0"', f"admin: {{listen: {admin}"))


def start(place: Any, env: dict[str, str], argv: list[str] | None = None) -> str:
    """`place.serve` for a gateway that announces something else; what it announces."""
    place.process = type(place.process)(place.root, "gateway", argv or ["serve", "--config", str(place.config)], env, "gateway: ready on ")
    return str(place.process.ready_text)


async def call(url: str, key: str, path: Path | None = None) -> int:
    connector = aiohttp.UnixConnector(str(path)) if path is not None else None
    options: dict[str, Any] = {"connector": connector, "timeout": aiohttp.ClientTimeout(PATIENCE_S)}
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}, **options) as session,
        session.post(f"{url}/v1/chat/completions", json=CHAT) as answer,
    ):
        await answer.read()
        return answer.status


@pytest.fixture(scope="module")
def place(start_gateway_for_all: Callable[..., Any]) -> Any:
    return start_gateway_for_all().place


@pytest.fixture
def stopped(place: Any) -> Iterator[Any]:
    """A place where no gateway runs, until the test starts one."""
    text = (place.config / "gateway.yaml").read_text()
    assert place.process.stop() == 0
    yield place
    assert place.process.stop() == 0
    place.write("gateway.yaml", text)


def test_several_addresses_are_one_gateway(stopped: Any, upstream_key: dict[str, str]) -> None:
    place, path, before = stopped, stopped.root / "gw.sock", len(stopped.entries())
    six = '"[::1]:0", ' if socket.has_ipv6 and has_loopback_6() else ""
    listen_at(place, f'["127.0.0.1:0", {six}"unix:{path}"], socket_mode: "0600"', f'"unix:{place.root / "admin.sock"}"')
    announced = start(place, upstream_key)
    found = re.fullmatch(
        r"gateway: ready on (http://127\.0\.0\.1:\d+), (?:(http://\[::1\]:\d+), )?unix:(\S+) \(admin unix:(\S+)\)", announced
    )
    assert found, announced
    assert (found[3], found[4]) == (str(path), str(place.root / "admin.sock"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ways = [(found[1], None), *([(found[2], None)] if found[2] else []), ("http://gateway", path)]
    assert [asyncio.run(call(url, place.keys["voice"], unix)) for url, unix in ways] == [200] * len(ways)
    assert place.process.stop() == 0
    assert len(place.entries()) == before + len(ways)
    assert place.differences() == []
    assert place.complaints() == []
    assert not path.exists()
    assert not (place.root / "admin.sock").exists()


def has_loopback_6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 9)) != 99  # EADDRNOTAVAIL


def test_a_gateway_that_was_killed_leaves_nothing_in_the_way_and_a_living_one_is_not_robbed(
    stopped: Any, upstream_key: Any, until: Any
) -> None:
    place, path = stopped, stopped.root / "gw.sock"
    listen_at(place, f'"unix:{path}"')
    start(place, upstream_key)
    refused = serve_second(place, upstream_key, journal="journal-2")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"cannot listen on unix:{path}: another process listens there" in refused.stderr
    assert asyncio.run(call("http://gateway", place.keys["voice"], path)) == 200
    place.process.popen.kill()
    place.process.popen.wait()
    until(place.processes, lambda found: list(found) == [place.simulator.popen.pid], "its roles have ended by themselves")
    assert path.is_socket()
    start(place, upstream_key)
    assert asyncio.run(call("http://gateway", place.keys["voice"], path)) == 200


def test_a_second_gateway_on_the_same_journals_ends_with_one_sentence_before_it_listens(
    stopped: Any, upstream_key: Any, until: Any
) -> None:
    place = stopped
    start(place, upstream_key)
    refused = serve_second(place, upstream_key, journal="journal")
    advice = "Give this one its own journal.folder, or stop the other."
    assert refused.stderr == f"gateway: the journal in {place.root}/journal is in use by another gateway. {advice}\n"
    assert (refused.returncode, refused.stdout) == (1, "")
    (url,) = re.findall(r"http://\S+(?= \()", place.process.ready_text)
    assert asyncio.run(call(url, place.keys["voice"])) == 200
    assert place.complaints() == []
    place.process.popen.kill()
    place.process.popen.wait()
    until(place.processes, lambda found: list(found) == [place.simulator.popen.pid], "its roles have ended by themselves")
    start(place, upstream_key)


def serve_second(place: Any, env: dict[str, str], journal: str) -> subprocess.CompletedProcess[str]:
    """Start another gateway, of the same configuration but for its journals, and wait until it has given up."""
    config = place.root / f"second-{journal}"
    shutil.copytree(place.config, config)
    text = (config / "gateway.yaml").read_text()
    (config / "gateway.yaml").write_text(text.replace(f'"{place.root}/journal"', f'"{place.root}/{journal}"'))
    argv = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
    return subprocess.run(argv, capture_output=True, text=True, env=env, cwd=place.root, timeout=PATIENCE_S, check=False)


def test_a_socket_of_systemd_outlives_the_gateway_and_keeps_who_comes_meanwhile(stopped: Any, upstream_key: Any) -> None:
    """`gateway.socket` holds the address; `systemctl restart gateway` stops and starts what serves it."""
    place, before = stopped, len(stopped.entries())
    with socket.create_server(("127.0.0.1", 0)) as systemd:
        port = systemd.getsockname()[1]
        listen_at(place, f'"127.0.0.1:{port}"')
        argv = [sys.executable, "-c", ACTIVATED, str(systemd.fileno()), "-m", "gateway", "serve", "--config", str(place.config)]

        def activate() -> subprocess.Popen[bytes]:
            with (place.root / "systemd.out").open("wb") as out, place.process.log.open("ab") as log:
                return subprocess.Popen(argv, stdout=out, stderr=log, env=upstream_key, cwd=place.root, pass_fds=(systemd.fileno(),))

        async def story() -> list[int]:
            first = activate()
            assert await call(f"http://127.0.0.1:{port}", place.keys["voice"]) == 200
            first.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(first.wait, PATIENCE_S) == 0
            meanwhile = [asyncio.create_task(call(f"http://127.0.0.1:{port}", place.keys["voice"])) for _ in range(5)]
            second = activate()
            answered = await asyncio.gather(*meanwhile)
            second.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(second.wait, PATIENCE_S) == 0
            return answered

        assert asyncio.run(story()) == [200] * 5
    assert len(place.entries()) == before + 6
    assert place.complaints() == []


@pytest.fixture
def upstream_key() -> dict[str, str]:
    """The environment of a gateway."""
    return {"UPSTREAM_KEY": "sk-upstream-5e1f0c8a7b3d49d2"}
