"""The way to OpenAI where it is not plain: HTTP proxies, private authorities, client certificates, IPv6.

One gateway for all. Its accounts are called over a proxy that does to each host name what the name says, and behind it are
simulators with certificates of an authority of their own. The proxies of the environment are set for the gateway as for anyone.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from gateway.simulator import Simulator, compare, in_thread

CHAT = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "Is the way clear?"}]}'
STREAM = CHAT.replace(b'{"model"', b'{"stream": true, "model"')
PASSWORD = "p@ss:w%rd"
CREDENTIALS = "Basic " + b64encode(f"gate:{PASSWORD}".encode()).decode()
HASTE_MS = 400  # of accounts whose way ends nowhere
PATIENCE_S = 30.0

ENDLESS = b"HTTP/1.1 200 OK\r\nx-padding: " + b"x" * 100_000
MISBEHAVIOUR: dict[str, tuple[bytes | None, bool, int, str]] = {  # what the proxy says, whether it closes then, and what clients are told
    "forbidden.test": (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 5\r\n\r\nnever", False, 502, "opened no tunnel (403)"),
    "unreachable.test": (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", True, 502, "opened no tunnel (502)"),
    "late.test": (b"HTTP/1.0 504 Gateway Timeout\r\n\r\n", True, 504, "opened no tunnel (504)"),
    "redirected.test": (b"HTTP/1.1 302 Found\r\nlocation: http://login.test/\r\n\r\n", False, 502, "opened no tunnel (302)"),
    "garbage.test": (b"SSH-2.0-OpenSSH_9.2\r\n", False, 502, "does not answer in HTTP"),
    "binary.test": (bytes(range(256)), False, 502, "does not answer in HTTP"),
    "short.test": (b"HTTP\r\n\r\n", False, 502, "does not answer in HTTP"),
    "half.test": (b"HTTP/1.1 200 Connection est", True, 502, "closed the connection without an answer"),
    "closed.test": (b"", True, 502, "closed the connection without an answer"),
    "huge.test": (ENDLESS, False, 502, "answers with more than 16384 bytes of headers"),
    "eager.test": (b"HTTP/1.1 200 OK\r\n\r\n<html>you are not logged in</html>", False, 502, "does not answer in HTTP"),
    "silent.test": (None, False, 504, "the proxy on the way to it did not answer in time"),
    "unfinished.test": (b"HTTP/1.1 200 OK\r\n", False, 504, "the proxy on the way to it did not answer in time"),
    "mute.test": (b"HTTP/1.1 200 OK\r\n\r\n", False, 504, "it did not finish the TLS handshake in time"),
    "cut.test": (b"HTTP/1.1 200 OK\r\n\r\n", True, 502, "it closed the connection at once"),
}


class TunnelProxy:
    """An HTTP proxy that knows nothing but CONNECT. `ways` are the ports behind host names; `asked` is what it was asked, as it came."""

    def __init__(self, credentials: str | None = None) -> None:
        self.asked: list[tuple[str, str | None]] = []  # target and Proxy-Authorization
        self.ways: dict[str, tuple[str, int]] = {}
        self.open: Counter[str] = Counter()  # tunnels, by host
        self._credentials = credentials

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, target, version = lines[0].split(" ")
            headers = dict(line.lower().split(": ", 1)[:1] + line.split(": ", 1)[1:] for line in lines[1:-2])
            assert (method, version, headers["host"]) == ("CONNECT", "HTTP/1.1", target)
            self.asked.append((target, headers.get("proxy-authorization")))
            host = target.rpartition(":")[0]
            if self._credentials is not None and headers.get("proxy-authorization") != self._credentials:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\n\r\n")
            elif host in MISBEHAVIOUR:
                said, closes, _, _ = MISBEHAVIOUR[host]
                writer.write(said or b"")
                if not closes:
                    await reader.read()  # to the end of the client's patience
            else:
                self.open[host] += 1
                await self._join(reader, writer, *self.ways[host])
                self.open[host] -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
        there_reader, there_writer = await asyncio.open_connection(host, port)
        writer.write(b"HTTP/1.1 200 Connection established\r\nvia: 1.1 proxy\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while piece := await source.read(65_536):
                    sink.write(piece)
                    await sink.drain()
            except ConnectionError:
                pass
            finally:
                sink.close()

        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))


@contextmanager
def running(proxy: TunnelProxy) -> Iterator[int]:
    """The proxy in a thread of its own; its port."""
    loop, ready, ports = asyncio.new_event_loop(), Event(), []
    stop = asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        await stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    def work() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = Thread(target=work, name="proxy")
    thread.start()
    assert ready.wait(PATIENCE_S)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def make_certificates(folder: Path) -> None:
    """Two authorities, and of each a server (`api.openai.test`, and this machine) and a client."""
    if shutil.which("openssl") is None:
        if os.environ.get("CI"):
            pytest.fail("there is no openssl to make certificates with")
        pytest.skip("there is no openssl to make certificates with")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", "req", "-x509", *curve, *words], cwd=folder, check=True, capture_output=True)

    for authority in ("one", "two"):
        openssl("-subj", f"/CN=authority {authority}", "-keyout", f"{authority}.key", "-out", f"{authority}.pem")
        for name, extensions in (
            ("server", ["-addext", "subjectAltName=DNS:api.openai.test,DNS:moved.test,IP:127.0.0.1"]),
            ("client", ["-addext", "extendedKeyUsage=clientAuth"]),
        ):
            signed = ["-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-addext", "basicConstraints=critical,CA:FALSE"]
            file = f"{authority}-{name}"
            openssl("-subj", f"/CN={file}", *signed, *extensions, "-keyout", f"{file}.key", "-out", f"{file}.pem")


class Edges:
    """The gateway, what is on its way, and its accounts."""

    def __init__(self, folder: Path, until: Callable[..., Any]) -> None:
        self.folder, self.until = folder, until
        self.proxy, self.strict = TunnelProxy(), TunnelProxy(CREDENTIALS)
        self.names_asked: list[str | None] = []  # SNI, as the simulators saw it
        self.simulators: dict[str, Simulator] = {}
        self.accounts: dict[str, dict[str, Any]] = {}

    def begin(self, journey: Any, stack: ExitStack) -> None:
        """With the simulators behind the proxies, which run already."""
        self.journey, self.place = journey, journey.place
        self._template = self.place.config.joinpath("gateway.yaml").read_text()
        tls = {"one": self.context("one"), "two": self.context("two"), "asks": self.context("one", clients_of="one")}
        options: dict[str, dict[str, Any]] = {name: {"tls": context} for name, context in tls.items()}
        for name, given in (options | {"plain": {}} | ({"v6": {"host": "::1"}} if _has_ipv6() else {})).items():
            file = self.folder / f"{name}.jsonl"
            self.simulators[name] = stack.enter_context(in_thread(journal=file, **given))
        one = ("127.0.0.1", self.simulators["one"].port)
        self.proxy.ways |= {"api.openai.test": one, "other.test": one, "moved.test": one}
        self.proxy.ways |= {"plain.test": ("127.0.0.1", self.simulators["plain"].port)}
        self.strict.ways |= self.proxy.ways

    def context(self, authority: str, *, clients_of: str | None = None) -> ssl.SSLContext:
        """Of a simulator whose certificate is this authority's; with `clients_of` it wants one of its clients too."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.folder / f"{authority}-server.pem", self.folder / f"{authority}-server.key")
        context.sni_callback = lambda _handshake, name, _context: self.names_asked.append(name)
        if clients_of is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.folder / f"{clients_of}.pem")
        return context

    def put(self, name: str, source: str) -> str:
        """The file `source` under a name that stays, put in its place whole; its path."""
        shutil.copy(self.folder / source, self.folder / "new")
        return str((self.folder / "new").rename(self.folder / name))

    def apply(self, **accounts: dict[str, Any]) -> None:
        """These accounts beside those there are, each with a team of its name, in force."""
        self.accounts |= accounts
        shown = "".join(f"  {name}: {json.dumps({'api_key': 'sk-any'} | settings)}\n" for name, settings in self.accounts.items())
        self.place.write("gateway.yaml", self._template.replace("journal:", f"{shown}journal:", 1))
        for name in accounts:
            self.place.team(name, account=name)
        answer = self.place.reload()
        assert answer.status == 200, answer.body

    def chat(self, account: str, body: bytes = CHAT) -> Any:
        return self.journey.send("POST", "/chat/completions", body, team=account)

    def entries(self, account: str) -> list[dict[str, Any]]:
        """What is booked for an account's team, once all is."""
        self.place.settled()
        return [entry for entry in self.place.entries() if entry["team"] == account]

    def sockets(self) -> int:
        """Open sockets of the worker."""
        count = 0
        for file in Path(f"/proc/{self.place.role('worker')}/fd").iterdir():
            with suppress(FileNotFoundError):
                count += os.readlink(file).startswith("socket:")
        return count


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def edges(start_gateway_for_all: Any, tmp_path_factory: pytest.TempPathFactory, until: Any) -> Iterator[Edges]:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    found = Edges(folder, until)
    with ExitStack() as stack:
        found.port, found.strict_port = stack.enter_context(running(found.proxy)), stack.enter_context(running(found.strict))
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        environment.setenv("HTTPS_PROXY", f"gate:p%40ss%3Aw%25rd@127.0.0.1:{found.strict_port}")
        environment.setenv("HTTP_PROXY", f"http://127.0.0.1:{found.port}")
        environment.setenv("NO_PROXY", ".direct.test")
        found.begin(start_gateway_for_all(), stack)
        yield found
        found.place.settled()
        assert found.place.process.stop() == 0
        account = [line for simulator in found.simulators.values() for line in simulator.account()]
        assert compare([entry for entry in found.place.entries() if entry["usage_source"] != "unknown"], account) == []
        assert [line for line in found.place.complaints() if "is not that of the certificate" not in line] == []
        log = found.place.process.log.read_text()
        assert '"upstream_unreachable"' in log
        assert not any(secret in log for secret in (PASSWORD, "p%40ss", CREDENTIALS.split()[1]))


def test_the_proxy_of_the_environment_is_on_the_way(edges: Edges) -> None:
    edges.apply(environment={"base_url": "https://api.openai.test/v1", "ca_file": str(edges.folder / "one.pem")})
    asked, names = len(edges.strict.asked), len(edges.names_asked)
    assert edges.chat("environment").status == 200
    streamed = edges.chat("environment", STREAM)
    assert (streamed.status, streamed.body.endswith(b"data: [DONE]\n\n")) == (200, True)
    assert edges.strict.asked[asked:] == [("api.openai.test:443", CREDENTIALS)]  # one tunnel for both, and its port is always said
    assert edges.names_asked[names:] == ["api.openai.test"]
    assert [entry["usage_source"] for entry in edges.entries("environment")] == ["reported"] * 2
    seen = edges.simulators["one"].account()
    assert {entry["exchange_id"] for entry in edges.entries("environment")} <= {line.client_request_id for line in seen}


def test_the_proxy_of_the_environment_for_plain_http_is_tunnelled_through_too(edges: Edges) -> None:
    asked = len(edges.proxy.asked)
    edges.apply(plain={"base_url": "http://plain.test:8000/v1"})
    assert edges.chat("plain").status == 200
    assert edges.proxy.asked[asked:] == [("plain.test:8000", None)]


def test_the_proxy_of_an_account_wins(edges: Edges) -> None:
    strict, asked = len(edges.strict.asked), len(edges.proxy.asked)
    url = "https://api.openai.test:8443/v1"
    edges.apply(written={"base_url": url, "ca_file": str(edges.folder / "one.pem"), "proxy_url": f"http://127.0.0.1:{edges.port}"})
    assert edges.chat("written").status == 200
    assert (edges.proxy.asked[asked:], edges.strict.asked[strict:]) == ([("api.openai.test:8443", None)], [])


def test_an_account_on_this_machine_is_called_directly(edges: Edges) -> None:
    asked, names = len(edges.proxy.asked) + len(edges.strict.asked), len(edges.names_asked)
    edges.apply(direct={"base_url": edges.simulators["one"].base_url, "ca_file": str(edges.folder / "one.pem")})
    assert edges.chat("direct").status == 200
    assert len(edges.proxy.asked) + len(edges.strict.asked) == asked
    assert edges.names_asked[names:] == [None]  # an address is no name


@pytest.mark.parametrize("host", MISBEHAVIOUR)
def test_a_proxy_that_opens_no_tunnel_is_told_of_and_leaves_nothing(host: str, edges: Edges, check_error: Any) -> None:
    _, _, status, said = MISBEHAVIOUR[host]
    settings = {"proxy_url": f"http://127.0.0.1:{edges.port}", "connect_timeout_ms": HASTE_MS if status == 504 else 10_000}
    name = host.partition(".")[0]
    edges.apply(**{name: {"base_url": f"https://{host}/v1", **settings}})
    edges.place.settled()
    sockets = edges.sockets()
    error = check_error(edges.chat(name), status, "upstream_unreachable", "server_error")
    assert said in error["message"]
    assert error["message"].endswith("Nothing was sent; try again.")
    assert edges.entries(name) == []
    edges.until(edges.sockets, lambda now: now <= sockets, "its sockets are closed")


def test_a_proxy_that_wants_other_credentials_is_told_of(edges: Edges, check_error: Any) -> None:
    proxy_url = f"http://gate:wrong@127.0.0.1:{edges.strict_port}"
    edges.apply(wrong={"base_url": "https://api.openai.test/v1", "proxy_url": proxy_url})
    error = check_error(edges.chat("wrong"), 502, "upstream_unreachable", "server_error")
    assert "refuses the gateway's credentials (407)" in error["message"]
    assert edges.entries("wrong") == []


def test_a_proxy_that_is_not_there_is_told_of(edges: Edges, check_error: Any) -> None:
    edges.apply(absent={"base_url": "https://api.openai.test/v1", "proxy_url": "http://127.0.0.1:1"})  # tcpmux: nobody listens
    error = check_error(edges.chat("absent"), 502, "upstream_unreachable", "server_error")
    assert "the proxy on the way to it refused the connection" in error["message"]


@pytest.mark.parametrize(
    "host, authority, said",
    [("other.test", "one", "Hostname mismatch"), ("api.openai.test", "two", "unable to get local issuer certificate")],
    ids=["of another name", "of an authority that is not trusted"],
)
def test_a_certificate_is_verified_through_the_proxy_too(host: str, authority: str, said: str, edges: Edges, check_error: Any) -> None:
    edges.apply(untrusted={"base_url": f"https://{host}/v1", "ca_file": str(edges.folder / f"{authority}.pem")})
    error = check_error(edges.chat("untrusted"), 502, "upstream_unreachable", "server_error")
    assert f"its certificate is not trusted ({said}" in error["message"]
    assert edges.entries("untrusted") == []


def test_a_renewed_authority_is_taken_and_the_old_connections_go(edges: Edges) -> None:
    """As when a company changes its authority: new file under the old name, then the servers."""
    ca_file = edges.put("authority.pem", "one.pem")
    edges.apply(moved={"base_url": "https://moved.test/v1", "ca_file": ca_file, "proxy_url": f"http://127.0.0.1:{edges.port}"})
    assert edges.chat("moved").status == 200
    edges.proxy.ways["moved.test"] = ("127.0.0.1", edges.simulators["two"].port)
    assert edges.chat("moved").status == 200  # over the connection there is
    assert (edges.proxy.open["moved.test"], len(edges.simulators["two"].account())) == (1, 0)
    edges.put("authority.pem", "two.pem")
    assert edges.place.reload().status == 200
    edges.until(lambda: edges.proxy.open["moved.test"], lambda tunnels: tunnels == 0, "the old connection is closed")
    assert edges.chat("moved").status == 200
    assert (edges.proxy.open["moved.test"], len(edges.simulators["two"].account())) == (1, 1)
    del edges.accounts["moved"]
    edges.place.team("moved", account="openai")
    edges.apply()
    edges.until(lambda: edges.proxy.open["moved.test"], lambda tunnels: tunnels == 0, "the connection of an account that is gone is closed")


def test_a_client_certificate_is_shown_and_a_renewed_one_taken(edges: Edges, check_error: Any) -> None:
    shown = {"client_certificate": edges.put("client.pem", "two-client.pem"), "client_key": edges.put("client.key", "two-client.key")}
    edges.apply(shows={"base_url": edges.simulators["asks"].base_url, "ca_file": str(edges.folder / "one.pem"), **shown})
    check_error(edges.chat("shows"), 502, "upstream_closed", "server_error")  # TLS 1.3: refused after the request may have gone
    edges.put("client.pem", "one-client.pem")
    refused = edges.place.reload()  # the key is still the old one
    assert (refused.status, b"is not that of the certificate" in refused.body) == (409, True)
    edges.put("client.key", "one-client.key")
    assert edges.place.reload().status == 200
    assert edges.chat("shows").status == 200
    assert [entry["usage_source"] for entry in edges.entries("shows")] == ["unknown", "reported"]


def test_an_upstream_at_an_ipv6_address(edges: Edges) -> None:
    if "v6" not in edges.simulators:
        pytest.skip("this machine has no IPv6 loopback")
    assert edges.simulators["v6"].base_url.startswith("http://[::1]:")
    edges.apply(v6={"base_url": edges.simulators["v6"].base_url})
    assert edges.chat("v6").status == 200
    assert [line.status for line in edges.simulators["v6"].account()] == [200]
