"""TLS towards clients: the certificate that is current is shown, whoever asks, and old protocols are refused."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.config.snapshot import Tls
from gateway.server.tls import RenewableTls, listener_context

KEYS = {"ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa": ["rsa:2048"]}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tls]:
    """Certificates for 127.0.0.1 that vouch for themselves, one of each kind of key."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("certificates")
    for name, key in KEYS.items():
        command = ["openssl", "req", "-x509", "-newkey", *key, "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        command += [
            "-addext",
            "subjectAltName=IP:127.0.0.1,DNS:gateway.test",
            "-keyout",
            f"{folder}/{name}.key",
            "-out",
            f"{folder}/{name}.pem",
        ]
        subprocess.run(command, check=True, capture_output=True)
    return {name: Tls(f"{folder}/{name}.pem", f"{folder}/{name}.key") for name in KEYS}


class Greeter(asyncio.Protocol):
    """Says something to whoever has come through the handshake, and what it was told."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(b"hello")

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def trusting(tls: Tls, *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.certificate_file)
    context.maximum_version = newest
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
@pytest.mark.parametrize("name", ["gateway.test", "127.0.0.1"], ids=["the client names the server", "the client names none"])
def test_a_renewed_certificate_is_shown_and_open_connections_stay(
    name: str, newest: ssl.TLSVersion, certificates: dict[str, Tls], loopback: Any
) -> None:
    """Its key may be of another kind: the old one is not offered beside it."""

    async def test() -> None:
        renewable = RenewableTls(listener_context(certificates["ec"]))
        server = await asyncio.get_running_loop().create_server(Greeter, "127.0.0.1", 0, ssl=renewable.listening)
        port = server.sockets[0].getsockname()[1]

        async def greeted(by: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            context = trusting(certificates[by], newest=newest)
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
            assert await reader.readexactly(5) == b"hello"
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
            return reader, writer

        first_reader, first = await greeted("ec")
        with pytest.raises(ssl.SSLCertVerificationError):
            await greeted("rsa")
        renewable.renew(listener_context(certificates["rsa"]))
        _, second = await greeted("rsa")
        with pytest.raises(ssl.SSLCertVerificationError):
            await greeted("ec")
        first.write(b"still here")
        assert await first_reader.readexactly(10) == b"still here"
        for writer in (first, second):
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    loopback.run(test)


def test_a_protocol_that_is_too_old_is_refused(certificates: dict[str, Tls]) -> None:
    """By both contexts, since the handshake begins with one and goes on with the other."""
    renewable = RenewableTls(listener_context(certificates["ec"]))
    assert renewable.listening.minimum_version == listener_context(certificates["ec"]).minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(certificates: dict[str, Tls], tmp_path: Path) -> None:
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkcs8", "-topk8", "-in", certificates["ec"].key_file, "-out", str(locked), "-passout", "pass:word"]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(ssl.SSLError):
        listener_context(Tls(certificates["ec"].certificate_file, str(locked)))
