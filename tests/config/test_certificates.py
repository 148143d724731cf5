"""Certificates that a worker could not use are told before it is asked to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Folder

ACCOUNT = "accounts:\n  openai:\n    api_key: x\n"
TLS = "proxy:\n  tls:\n    certificate: config/tls.crt\n    key: config/tls.key\n"
CA_AT = "config/gateway.yaml:4: accounts.openai.ca_file: "
SHOWN = "    client_certificate: config/tls.crt\n    client_key: file:config/tls.key\n"
SHOWN_AT = "config/gateway.yaml:4: accounts.openai.client_certificate: "
SHOWN_KEY_AT = "config/gateway.yaml:5: accounts.openai.client_key: "
CERTIFICATE_AT = "config/gateway.yaml:6: proxy.tls.certificate: "
KEY_AT = "config/gateway.yaml:7: proxy.tls.key: "

AUTHORITIES = [
    ("two certificates", ("ours.crt", "other.crt"), None),
    ("a certificate and its key", ("both.pem",), None),
    ("nothing", (), "holds no certificates that can be read, in PEM (NO_CERTIFICATE_OR_CRL_FOUND)"),
    ("a key", ("ours.key",), "holds no certificates that can be read, in PEM (NO_CERTIFICATE_OR_CRL_FOUND)"),
    ("only what was revoked", ("revoked.crl",), "holds no certificate"),
    ("half a certificate", ("half.crt",), "holds no certificates that can be read, in PEM (SSLError)"),
    ("one certificate and a half", ("whole and half.crt",), "holds no certificates that can be read, in PEM (SSLError)"),
    ("text", b"# bought, not yet delivered\n", "holds no certificates that can be read, in PEM (NO_CERTIFICATE_OR_CRL_FOUND)"),
    ("bytes", bytes(range(256)), "holds no certificates that can be read, in PEM (NO_CERTIFICATE_OR_CRL_FOUND)"),
]


@pytest.mark.parametrize("content, problem", [row[1:] for row in AUTHORITIES], ids=[row[0] for row in AUTHORITIES])
def test_a_ca_file_holds_certificates(
    folder: Folder, pem: Mapping[str, bytes], content: bytes | tuple[str, ...], problem: str | None
) -> None:
    folder.write("ca.pem", content if isinstance(content, bytes) else b"".join(pem[name] for name in content))
    folder.write("gateway.yaml", ACCOUNT + "    ca_file: file:config/ca.pem\n")
    assert folder.texts() == ([] if problem is None else [f"{CA_AT}the file 'config/ca.pem' {problem}"])


PAIRS = [
    ("a pair", "ours.crt", "ours.key", None),
    ("a pair in one file each", "both.pem", "both.pem", None),
    ("another's key", "ours.crt", "other.key", KEY_AT + "the key in 'config/tls.key' is not that of the certificate"),
    (
        "a key with a password", "ours.crt", "locked.key",
        KEY_AT + "the key in 'config/tls.key' is encrypted, and nobody is there to type its password; use one without",
    ),
    ("no key", "ours.crt", "ours.crt", KEY_AT + "the file 'config/tls.key' holds no private key that can be read, in PEM (SSLError)"),
    (
        "no certificate", "ours.key", "ours.key",
        CERTIFICATE_AT + "the file 'config/tls.crt' holds no certificate that can be read, in PEM (NO_CERTIFICATE_OR_CRL_FOUND)",
    ),
    (
        "half a certificate", "half.crt", "ours.key",
        CERTIFICATE_AT + "the file 'config/tls.crt' holds no certificate that can be read, in PEM (SSLError)",
    ),
    (
        "a certificate nobody would trust", "weak.crt", "weak.key",
        CERTIFICATE_AT + "the certificate in 'config/tls.crt' is too weak for OpenSSL (EE_KEY_TOO_SMALL)",
    ),
]  # fmt: skip


@pytest.mark.parametrize("certificate, key, problem", [row[1:] for row in PAIRS], ids=[row[0] for row in PAIRS])
def test_certificate_and_key_are_a_pair(folder: Folder, pem: Mapping[str, bytes], certificate: str, key: str, problem: str | None) -> None:
    folder.write("tls.crt", pem[certificate])
    folder.write("tls.key", pem[key])
    folder.write("gateway.yaml", ACCOUNT + TLS)
    assert folder.texts() == ([] if problem is None else [problem])
    folder.write("gateway.yaml", ACCOUNT + SHOWN)  # towards the upstream the same holds
    of_the_account = problem and problem.replace(CERTIFICATE_AT, SHOWN_AT).replace(KEY_AT, SHOWN_KEY_AT)
    assert folder.texts() == ([] if of_the_account is None else [of_the_account])


def test_a_problem_tells_nothing_of_a_key(folder: Folder, pem: Mapping[str, bytes]) -> None:
    folder.write("tls.crt", pem["ours.crt"])
    secret = pem["other.key"].splitlines()[1].decode()
    for key in (pem["other.key"], pem["other.key"][:-40]):
        folder.write("tls.key", key)
        folder.write("gateway.yaml", ACCOUNT + TLS)
        (text,) = folder.texts()
        assert secret not in text


@pytest.mark.parametrize("alone, other", [("client_certificate", "client_key"), ("client_key", "client_certificate")])
def test_a_client_certificate_needs_its_key_and_the_key_its_certificate(folder: Folder, alone: str, other: str) -> None:
    folder.write("gateway.yaml", f"{ACCOUNT}    {alone}: config/tls\n")
    assert folder.texts() == [f"config/gateway.yaml:4: accounts.openai.{alone}: needs {other} too"]


def test_a_client_certificate_that_is_not_there_is_told(folder: Folder, pem: Mapping[str, bytes]) -> None:
    folder.write("tls.key", pem["ours.key"])
    folder.write("gateway.yaml", ACCOUNT + SHOWN)
    assert folder.texts() == [f"{SHOWN_AT}there is no file 'config/tls.crt'"]


def test_a_client_certificate_that_would_never_be_shown_is_warned_of(folder: Folder, pem: Mapping[str, bytes]) -> None:
    folder.write("tls.crt", pem["ours.crt"])
    folder.write("tls.key", pem["ours.key"])
    folder.write("gateway.yaml", ACCOUNT + SHOWN + "    base_url: http://127.0.0.1:9/v1\n")
    assert folder.texts() == [
        "config/gateway.yaml:4: warning: accounts.openai.client_certificate: is never shown, since base_url is not https://"
    ]


def test_a_file_that_is_too_large_is_no_certificate(folder: Folder, pem: Mapping[str, bytes]) -> None:
    folder.write("ca.pem", pem["ours.crt"] + b"#" * 1_048_576)
    folder.write("gateway.yaml", ACCOUNT + "    ca_file: config/ca.pem\n")
    assert folder.texts() == [f"{CA_AT}the file 'config/ca.pem' is larger than 1048576 bytes"]


def test_a_renewed_file_makes_another_value(folder: Folder, pem: Mapping[str, bytes]) -> None:
    """Workers compare values: what is equal keeps its connections, and what is not gets new ones."""

    def settings() -> list[object]:
        found = folder.good().settings
        return [found.accounts[0].ca_digest, found.accounts[0].client_certificate, found.proxy.tls]

    folder.write("gateway.yaml", ACCOUNT + SHOWN + "    ca_file: config/ca.pem\n" + TLS)
    for name in ("ca.pem", "tls.crt", "tls.key"):
        folder.write(name, pem["both.pem"])
    before = settings()
    assert settings() == before
    folder.write("ca.pem", pem["other.crt"])
    assert [now != was for now, was in zip(settings(), before, strict=True)] == [True, False, False]
    before = settings()
    folder.write("tls.key", pem["ours.key"])
    assert [now != was for now, was in zip(settings(), before, strict=True)] == [False, True, True]
