"""gateway.yaml to `Settings`: secrets and certificates are read here, and what this version cannot do is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from gateway.config.certificates import ca_file_problem, tls_problem
from gateway.config.fields import parse_proxy_url
from gateway.config.files import Reader
from gateway.config.gateway_file import AccountSection, GatewayFile, TlsSection
from gateway.config.problems import Findings, KeyPath, Source
from gateway.config.proxy_of_environment import is_loopback, proxy_of
from gateway.config.snapshot import Account, AdminSettings, EstimateSettings, Listen, ProxySettings, Secret, Settings, Tls
from gateway.config.watch import Stamps, stamp_of

Purpose = Literal["check", "serve", "demo"]
"""check: tell everything, needs no secrets. serve: what must not go into service is an error. demo: example keys are welcome."""

_SECRET_CHARACTERS_MAX = 4_096  # of a header
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
        if proxy.listen == admin.listen and (proxy.listen.port or proxy.listen.path):
            self.findings.add(self.source, ("admin", "listen"), "is the address of proxy.listen, each needs its own", show=True)
        token = self._secret(("admin", "token"), admin.token)
        if not token.value and admin.listen.host and not is_loopback(admin.listen.host):
            message = "is empty: other machines are refused, although admin.listen is open to them"
            self.findings.add(self.source, ("admin", "token"), message, severity="warning")
        return Settings(
            proxy=ProxySettings(
                listen=proxy.listen,
                tls=self._tls(proxy.tls) if proxy.tls else None,
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

    def _account(self, name: str, section: AccountSection, listen: Listen) -> Account:
        path: KeyPath = ("accounts", name)
        key = self._secret((*path, "api_key"), section.api_key)
        parts = urlsplit(section.base_url)
        local = is_loopback(parts.hostname or "")
        if not key.value and not local and self.purpose != "demo":
            self._no_key((*path, "api_key"))
        if parts.scheme == "http" and not local:
            message = "sends the account's key unencrypted; use https:// where the network is not your own"
            self.findings.add(self.source, (*path, "base_url"), message, severity="warning")
        if local and listen.port and parts.port == listen.port:  # OPENAI_BASE_URL set for an application, in the gateway's own shell
            message = "is this gateway's own address (proxy.listen), so no call would ever reach OpenAI"
            self.findings.add(self.source, (*path, "base_url"), message, show=True)
        if not parts.path.endswith("/v1"):
            message = "does not end in /v1, where OpenAI's API is"
            self.findings.add(self.source, (*path, "base_url"), message, show=True, severity="warning")
        if section.ca_file:
            self._ca_file((*path, "ca_file"), section.ca_file)
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
            ca_file=section.ca_file.removeprefix("file:") if section.ca_file else None,
            proxy_url=self._proxy(path, section),
            connections_max=section.connections_max,
            idle_timeout_ms=section.idle_timeout_ms,
            connect_timeout_ms=section.connect_timeout_ms,
            first_byte_timeout_ms=section.first_byte_timeout_ms,
            stall_timeout_ms=section.stall_timeout_ms,
        )

    def _proxy(self, path: KeyPath, section: AccountSection) -> str | None:
        written = "proxy_url" in section.model_fields_set
        try:
            proxy_url = section.proxy_url if written else parse_proxy_url(proxy_of(section.base_url, self.env))
        except ValueError as error:
            self.findings.add(self.source, path, f"HTTPS_PROXY of the environment cannot be used: {error}")
            return None
        if proxy_url:
            what = "is" if written else "HTTPS_PROXY of the environment is"
            message = f"{what} read but not used in this version: the account is called directly"
            self.findings.add(self.source, (*path, "proxy_url") if written else path, message, severity="warning")
        return proxy_url

    def _no_key(self, path: KeyPath) -> None:
        named = _VARIABLE_NAME.match(str(self.source.written(path) or ""))
        todo = f"set {named[1]} in the environment" if named else "write ${OPENAI_API_KEY}, or file:/path of a file that holds it"
        message = f"there is no key for this account, so every call would fail; {todo}"
        self.findings.add(self.source, path, message, severity="error" if self.purpose == "serve" else "warning")

    def _ca_file(self, path: KeyPath, written: str) -> None:
        named, readable = self._named_file(path, written)
        if readable and (message := ca_file_problem(named)):
            self.findings.add(self.source, path, message)

    def _tls(self, section: TlsSection) -> Tls:
        path: KeyPath = ("proxy", "tls")
        certificate, certificate_readable = self._named_file((*path, "certificate"), section.certificate)
        key, key_readable = self._named_file((*path, "key"), section.key)
        if certificate_readable and key_readable and (problem := tls_problem(certificate, key)):
            part, message = problem
            self.findings.add(self.source, (*path, part), message)
        return Tls(certificate_file=certificate, key_file=key)

    def _named_file(self, path: KeyPath, written: str) -> tuple[str, bool]:
        """The path, and whether the file can be read: a problem is noted when it cannot."""
        named = written.removeprefix("file:")
        return named, self._content(path, named) is not None

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
        self.stamps[str(file)] = stamp_of(file)  # spelt as `watch.stamps_of` will: else each look would find a change
        try:
            if not named or os.path.isdir(named):
                raise FileNotFoundError
            return self.read(file)
        except FileNotFoundError:
            self.findings.add(self.source, path, f"there is no file {named!r}")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self.findings.add(self.source, path, f"the file {named!r} cannot be read: {reason}")
        return None
