"""HTTPS_PROXY and NO_PROXY, as other tools read them."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit


def proxy_of(base_url: str, env: Mapping[str, str]) -> str | None:
    """The proxy the environment wants for this address; None: none. Names in NO_PROXY hold for their subdomains too."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if parts.scheme != "https" or is_loopback(host):
        return None
    for entry in (env.get("NO_PROXY") or env.get("no_proxy") or "").lower().split(","):
        name = entry.strip().removeprefix("*").lstrip(".")
        if entry.strip() == "*" or (name and (host == name or host.endswith("." + name) or f"{host}:{parts.port or 443}" == name)):
            return None
    return env.get("HTTPS_PROXY") or env.get("https_proxy") or None


def is_loopback(host: str) -> bool:
    """A name or address that stays on this machine."""
    return host == "localhost" or host == "::1" or host.startswith("127.")
