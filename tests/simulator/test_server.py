"""Started as a program: it says where it listens, serves, and stops when told to."""

from __future__ import annotations

import shutil
import signal
import ssl
import subprocess
import sys

import httpx2
import pytest
from openai import OpenAI

from gateway.simulator import in_thread, read_account, run

PROGRAM = "import sys; from gateway.simulator import run; run(sys.argv[1], sys.argv[2], announce=lambda line: print(line, flush=True))"


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_stops_when_told(tmp_path, stop):
    journal = tmp_path / "account"
    with subprocess.Popen([sys.executable, "-c", PROGRAM, "127.0.0.1:0", str(journal)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("simulator: listening on http://127.0.0.1:")
        with OpenAI(base_url=line.split()[-1], api_key="sk-x") as client:
            client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
        process.send_signal(stop)
        assert process.wait(10) == 0
    assert [line.kind for line in read_account(journal)] == ["billed"]


@pytest.mark.parametrize("listen", ["", "8080", "127.0.0.1:", "127.0.0.1:http", ":8080"])
def test_an_address_that_is_none_is_refused(tmp_path, listen):
    with pytest.raises(ValueError, match="HOST:PORT"):
        run(listen, tmp_path / "account")


def test_a_journal_that_cannot_be_had_is_told(tmp_path):
    with pytest.raises(FileNotFoundError), in_thread(journal=tmp_path / "none" / "account"):
        pytest.fail("it started")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_it_speaks_tls(tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made, *names], check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    trust = ssl.create_default_context(cafile=str(certificate))
    with (
        in_thread(journal=tmp_path / "account", tls=tls) as simulator,
        httpx2.Client(verify=trust) as transport,
        OpenAI(base_url=simulator.base_url, api_key="sk-x", http_client=transport) as client,
    ):
        assert simulator.base_url.startswith("https://")
        with client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], stream=True) as stream:
            assert list(stream)
