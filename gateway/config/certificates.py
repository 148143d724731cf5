"""Certificates as the workers will read them, tried before a configuration goes to them. Each answer is a sentence; None: it will do."""

from __future__ import annotations

import ssl
from typing import Literal

Part = Literal["certificate", "key"]


def ca_file_problem(file: str) -> str | None:
    """Why an account's `ca_file` vouches for nobody. The file was read before."""
    try:
        context = ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError) as error:  # half a file, or anything that is not PEM
        return f"the file {file!r} holds no certificates that can be read, in PEM ({_reason(error)})"
    if not context.cert_store_stats()["x509"]:
        return f"the file {file!r} holds no certificate"
    return None


def tls_problem(certificate_file: str, key_file: str) -> tuple[Part, str] | None:
    """Why no listener can speak TLS with these two files, and which of them is at fault. The files were read before."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cafile=certificate_file)
    except (OSError, ssl.SSLError) as error:
        return "certificate", f"the file {certificate_file!r} holds no certificate that can be read, in PEM ({_reason(error)})"
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate_file, key_file, password=_asked_for_password)
    except _Encrypted:
        return "key", f"the key in {key_file!r} is encrypted, and nobody is there to type its password; use one without"
    except (OSError, ssl.SSLError) as error:
        if _reason(error) == "KEY_VALUES_MISMATCH":
            return "key", f"the key in {key_file!r} is not that of the certificate"
        if _reason(error).startswith(("EE_", "CA_")):  # its key is too small, its digest too weak
            return "certificate", f"the certificate in {certificate_file!r} is too weak for OpenSSL ({_reason(error)})"
        return "key", f"the file {key_file!r} holds no private key that can be read, in PEM ({_reason(error)})"
    return None


class _Encrypted(Exception):
    """OpenSSL asks for a password. Without this it would ask the terminal, and wait."""


def _asked_for_password() -> str:
    raise _Encrypted


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or type(error).__name__
