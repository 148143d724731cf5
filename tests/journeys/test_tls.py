"""TLS on both sides: the official client trusts the gateway's certificate, and the gateway OpenAI's."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from openai import DefaultHttpxClient

from gateway.simulator import compare, in_thread

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is on my bill?"}]}


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return make_certificate(tmp_path)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    if shutil.which("openssl") is None:
        if os.environ.get("CI"):
            pytest.fail("there is no openssl to make a certificate with")
        pytest.skip("there is no openssl to make a certificate with")
    made, key = folder / "tls.pem", folder / "tls.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=gateway"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made, key


def test_the_official_client_over_tls_to_openai_over_tls(start_gateway: Any, certificate: tuple[Path, Path], until: Any) -> None:
    made, key = certificate
    journey = start_gateway()
    place = journey.place
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made, key)
    with in_thread(journal=place.root / "tls.jsonl", tls=context) as upstream:
        assert place.process.stop() == 0
        text = (place.config / "gateway.yaml").read_text()
        text = text.replace(
            'proxy: {listen: "127.0.0.1:0"', f'proxy: {{listen: "127.0.0.1:0", tls: {{certificate: "{made}", key: "{key}"}}'
        )
        place.write("gateway.yaml", text.replace(f'"{place.upstream_url}"', f'"{upstream.base_url}", ca_file: "{made}"'))
        place.serve()
        assert place.base_url.startswith("https://")
        with DefaultHttpxClient(verify=ssl.create_default_context(cafile=str(made))) as trusting:
            client = journey.client(base_url=place.base_url, http_client=trusting)
            assert client.chat.completions.create(**CHAT).choices
            with client.chat.completions.create(**CHAT, stream=True) as stream:
                assert len(list(stream)) > 2
            assert client.responses.create(model="gpt-4o", input="x" * 200_000).output_text
        with pytest.raises(openai.APIConnectionError, match="Connection error"):
            journey.client(base_url=place.base_url).chat.completions.create(**CHAT)  # it does not know the certificate
        entries = until(place.entries, lambda found: len(found) >= 3, "three entries")
        assert [entry["usage_source"] for entry in entries] == ["reported"] * 3
        assert compare(entries, upstream.account()) == []
        assert place.complaints() == []
        assert place.process.stop() == 0
    place.serve()


def test_a_renewed_certificate_is_shown_by_itself_and_open_connections_stay(start_gateway: Any, tmp_path: Path, until: Any) -> None:
    """Put in its place under the old name, as by whatever renews it: no restart, no reload asked for."""
    both = tmp_path / "both.pem"

    def renew() -> str:
        made, key = make_certificate(tmp_path)
        new = tmp_path / "new.pem"
        new.write_text(made.read_text() + key.read_text())
        new.rename(both)
        return made.read_text()

    first = renew()
    journey = start_gateway()
    place = journey.place
    assert place.process.stop() == 0
    text = (place.config / "gateway.yaml").read_text()
    tls = f'{{certificate: "{both}", key: "{both}"}}'
    place.write("gateway.yaml", text.replace('proxy: {listen: "127.0.0.1:0"', f'proxy: {{listen: "127.0.0.1:0", tls: {tls}'))
    place.serve()
    address = (urlsplit(place.base_url).hostname or "", urlsplit(place.base_url).port or 0)
    with DefaultHttpxClient(verify=ssl.create_default_context(cadata=first)) as trusting:
        client = journey.client(base_url=place.base_url, http_client=trusting)
        assert client.chat.completions.create(**CHAT).choices
        second = renew()
        until(
            lambda: ssl.get_server_certificate(address).split(), lambda shown: shown == second.split(), "the renewed certificate is shown"
        )
        assert client.chat.completions.create(**CHAT).choices  # on the connection it has: it does not know the new one
    until(place.entries, lambda found: len(found) == 2, "two entries")
    assert place.complaints() == []
