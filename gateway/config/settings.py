"""gateway.yaml to `Settings`: secrets and certificates are read here, and what this version cannot do is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from gateway.config.certificates import ca_file_problem, tls_problem
from gateway.config.documents import FILE_BYTES_MAX
from gateway.config.files import Reader
from gateway.config.gateway_file import AccountSection, GatewayFile, TlsSection
from gateway.config.http_proxy import is_loopback, parse_http_proxy, proxy_of_environment
from gateway.config.problems import Findings, KeyPath, Source
from gateway.config.snapshot import Account, AdminSettings, EstimateSettings, HttpProxy, Listen, ProxySettings, Secret, Settings, Tls
from gateway.config.watch import Stamps, settled, stamp_of

Purpose = Literal["read", "check", "serve", "demo"]
"""read: for a command that sends no calls, of which the shell may be an application's. check: tell everything, needs no secrets.
serve: what must not go into service is an error. demo: example keys are welcome."""

_SECRET_CHARACTERS_MAX = 4_096  # of a header
APPLICATIONS_BASE_URL = "OPENAI_BASE_URL"  # by which OpenAI's libraries are told to call the gateway
_VARIABLE_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(slots=True)
class SettingsReader:
    """Turns a checked gateway.yaml into settings. `stamps` are of the files it names: they are watched too."""

    source: Source
    env: Mapping[str, str]
    purpose: Purpose
    read: Reader
    findings: Findings
    stamps: Stamps = field(default_factory=dict)

    def settings(self, file: GatewayFile) -> Settings:
        """The settings; where a problem was noted they are not to be used."""
        self._refuse_what_is_not_there(file)
        proxy, admin = file.proxy, file.admin
        self._addresses_of_their_own(proxy.listen, admin.listen)
        token = self._secret(("admin", "token"), admin.token)
        if not token.value and admin.listen.host and not is_loopback(admin.listen.host):
            message = "is empty: other machines are refused, although admin.listen is open to them"
            self.findings.add(self.source, ("admin", "token"), message, severity="warning")
        return Settings(
            proxy=ProxySettings(
                listen=proxy.listen,
                tls=self._tls(proxy.tls) if proxy.tls else None,
                socket_mode=proxy.socket_mode,
                cors_origins=proxy.cors_origins,
                head_bytes_max=proxy.head_bytes_max,
                body_bytes_max=proxy.body_bytes_max,
                head_timeout_ms=proxy.head_timeout_ms,
                body_timeout_ms=proxy.body_timeout_ms,
                idle_timeout_ms=proxy.idle_timeout_ms,
                write_timeout_ms=proxy.write_timeout_ms,
                drain_timeout_ms=proxy.drain_timeout_ms,
                connections_max=proxy.connections_max,
            ),
            admin=AdminSettings(listen=admin.listen, token=token),
            accounts=tuple(self._account(name, account, proxy.listen) for name, account in file.accounts.items()),
            workers=file.workers,
            store_url=file.limits.store,
            on_store_error=file.limits.on_store_error,
            journal_folder=file.journal.folder,
            journal_segment_bytes=file.journal.segment_bytes,
            ledger_url=file.ledger,
            estimate=EstimateSettings(**file.estimate.model_dump()),
            metrics_series_max=file.metrics.series_max,
        )

    def _addresses_of_their_own(self, proxy: tuple[Listen, ...], admin: Listen) -> None:
        written = self.source.written(("proxy", "listen"))
        for number, listen in enumerate(proxy):
            if listen in proxy[:number] and (listen.port or listen.path):
                path: KeyPath = ("proxy", "listen", number) if isinstance(written, list) else ("proxy", "listen")
                self.findings.add(self.source, path, "is there twice", show=True)
        if admin in proxy and (admin.port or admin.path):
            self.findings.add(self.source, ("admin", "listen"), "is the address of proxy.listen, each needs its own", show=True)

    def _refuse_what_is_not_there(self, file: GatewayFile) -> None:
        if file.limits.store != "memory":
            self._refuse(("limits", "store"), "this version keeps limits only in `memory`", "memory")
        elif "on_store_error" in file.limits.model_fields_set and self.purpose != "demo":
            message = "has no effect in this version: the memory store is never away"
            self.findings.add(self.source, ("limits", "on_store_error"), message, severity="warning")
        if file.workers > 1:
            message = f"{file.workers} workers need a limits store they share, and this version has only the memory store of one worker"
            self._refuse(("workers",), message, "1")
        if not file.ledger.startswith("sqlite:") or file.ledger == "sqlite:" or "\0" in file.ledger or "://" in file.ledger:
            self._refuse(("ledger",), "this version keeps the ledger only in SQLite", "sqlite:<path>")

    def _refuse(self, path: KeyPath, message: str, allowed: str) -> None:
        self.findings.add(self.source, path, message, allowed=allowed)

    def _account(self, name: str, section: AccountSection, listen: tuple[Listen, ...]) -> Account:
        path: KeyPath = ("accounts", name)
        key = self._secret((*path, "api_key"), section.api_key)
        parts = urlsplit(section.base_url)
        local = is_loopback(parts.hostname or "")
        if not key.value and not local and self.purpose != "demo":
            self._no_key((*path, "api_key"))
        if parts.scheme == "http" and not local:
            message = "sends the account's key unencrypted; use https:// where the network is not your own"
            self.findings.add(self.source, (*path, "base_url"), message, severity="warning")
        if self.purpose != "read" and local and parts.port and parts.port in [own.port for own in listen]:
            self._calls_itself((*path, "base_url"), section.base_url)
        if not parts.path.endswith("/v1"):
            message = "does not end in /v1, where OpenAI's API is"
            self.findings.add(self.source, (*path, "base_url"), message, show=True, severity="warning")
        ca_file, ca_digest = self._ca_file((*path, "ca_file"), section.ca_file) if section.ca_file else (None, "")
        for header in ("organization", "project"):
            if not re.fullmatch(r"[!-~]*", getattr(section, header) or ""):
                self.findings.add(self.source, (*path, header), "must be visible ASCII characters, since it goes into a header", show=True)
        return Account(
            name=name,
            base_url=section.base_url,
            api_key=key,
            tier=section.tier,
            organization=section.organization or None,
            project=section.project or None,
            data_residency=section.data_residency,
            ca_file=ca_file,
            ca_digest=ca_digest,
            client_certificate=self._client_certificate(path, section),
            http_proxy=self._http_proxy(path, section),
            connections_max=section.connections_max,
            idle_timeout_ms=section.idle_timeout_ms,
            connect_timeout_ms=section.connect_timeout_ms,
            first_byte_timeout_ms=section.first_byte_timeout_ms,
            stall_timeout_ms=section.stall_timeout_ms,
        )

    def _http_proxy(self, path: KeyPath, section: AccountSection) -> HttpProxy | None:
        if "proxy_url" not in section.model_fields_set:
            found = proxy_of_environment(section.base_url, self.env)
            try:
                return parse_http_proxy(found[1]) if found else None
            except ValueError as error:
                self.findings.add(self.source, path, f"{found[0] if found else ''} of the environment cannot be used: {error}")
                return None
        if not isinstance(section.proxy_url, str):
            return section.proxy_url
        content = self._content((*path, "proxy_url"), section.proxy_url.removeprefix("file:"))
        try:
            return parse_http_proxy(content.decode("latin-1").strip()) if content is not None else None
        except ValueError as error:
            self.findings.add(self.source, (*path, "proxy_url"), f"what the file it names holds cannot be used: {error}")
            return None

    def _calls_itself(self, path: KeyPath, base_url: str) -> None:
        message = "is this gateway's own address (proxy.listen), so no call would ever reach OpenAI"
        if self.env.get(APPLICATIONS_BASE_URL) and variable_in(self.source.written(path)) == APPLICATIONS_BASE_URL:
            message += f"; {APPLICATIONS_BASE_URL} of this shell is meant for applications, unset it for the gateway"
        self.findings.add(self.source, path, message, show=True, value=base_url)

    def _no_key(self, path: KeyPath) -> None:
        named = variable_in(self.source.written(path))
        todo = f"set {named} in the environment" if named else "write ${OPENAI_API_KEY}, or file:/path of a file that holds it"
        message = f"there is no key for this account, so every call would fail; {todo}"
        self.findings.add(self.source, path, message, severity="error" if self.purpose == "serve" else "warning")

    def _ca_file(self, path: KeyPath, written: str) -> tuple[str, str]:
        """Its path, and the digest of what it holds."""
        named = written.removeprefix("file:")
        content = self._content(path, named)
        if content is not None and (message := ca_file_problem(named)):
            self.findings.add(self.source, path, message)
        return named, _digest(content)

    def _client_certificate(self, path: KeyPath, section: AccountSection) -> Tls | None:
        certificate, key = section.client_certificate, section.client_key
        for has, has_not, one, other in (
            (certificate, key, "client_certificate", "client_key"),
            (key, certificate, "client_key", "client_certificate"),
        ):
            if has and not has_not:
                self.findings.add(self.source, (*path, one), f"needs {other} too")
        if not certificate or not key:
            return None
        if not section.base_url.startswith("https:"):
            message = "is never shown, since base_url is not https://"
            self.findings.add(self.source, (*path, "client_certificate"), message, severity="warning")
        return self._pair((*path, "client_certificate"), certificate, (*path, "client_key"), key)

    def _tls(self, section: TlsSection) -> Tls:
        return self._pair(("proxy", "tls", "certificate"), section.certificate, ("proxy", "tls", "key"), section.key)

    def _pair(self, certificate_path: KeyPath, certificate: str, key_path: KeyPath, key: str) -> Tls:
        """A certificate and its key, tried together."""
        files = [(path, written.removeprefix("file:")) for path, written in ((certificate_path, certificate), (key_path, key))]
        contents = [self._content(path, file) for path, file in files]
        (_, certificate_file), (_, key_file) = files
        if None not in contents and (problem := tls_problem(certificate_file, key_file)):
            part, message = problem
            self.findings.add(self.source, certificate_path if part == "certificate" else key_path, message)
        return Tls(certificate_file, key_file, _digest(*contents))

    def _secret(self, path: KeyPath, written: SecretStr) -> Secret:
        text = written.get_secret_value()
        if text.startswith("file:"):
            content = self._content(path, text.removeprefix("file:"))
            if content is None:
                return Secret("")
            text = content.decode("latin-1").strip()
            if not text:
                self.findings.add(self.source, path, "the file it names is empty")
        if not re.fullmatch(r"[!-~]*", text) or len(text) > _SECRET_CHARACTERS_MAX:
            message = f"must be at most {_SECRET_CHARACTERS_MAX} visible ASCII characters, since it goes into a header"
            self.findings.add(self.source, path, message)
        return Secret(text)

    def _content(self, path: KeyPath, named: str) -> bytes | None:
        file = Path(named)
        self.stamps |= settled({str(file): stamp_of(file)})  # spelt as `watch.stamps_of` will: else each look would find a change
        try:
            if not named or os.path.isdir(named):
                raise FileNotFoundError
            content = self.read(file)
            if len(content) <= FILE_BYTES_MAX:
                return content
            self.findings.add(self.source, path, f"the file {named!r} is larger than {FILE_BYTES_MAX} bytes")
        except FileNotFoundError:
            self.findings.add(self.source, path, f"there is no file {named!r}")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self.findings.add(self.source, path, f"the file {named!r} cannot be read: {reason}")
        return None


def variable_in(written: object) -> str:
    """The first environment variable that a value names, as `${NAME}` or `${NAME:-default}`; "" when there is none."""
    named = _VARIABLE_NAME.search(str(written))
    return named[1] if named else ""


def _digest(*contents: bytes | None) -> str:
    """The same for the same contents; short, since it is compared and not trusted."""
    return sha256(b"".join(sha256(content or b"").digest() for content in contents)).hexdigest()[:16]
