"""The HTTP proxy on the way to an account: `proxy_url`, or HTTPS_PROXY, HTTP_PROXY and NO_PROXY as other tools read them."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Annotated
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from pydantic import PlainValidator, WithJsonSchema

from gateway.config.snapshot import HttpProxy, Secret

_HINT = "a proxy is written as http://[user:password@]host[:port], with special characters of the password as %40"
_NO_PROXY_ENTRY = re.compile(r"\[(?P<v6>[^]]+)\](?::(?P<v6_port>\d+))?|(?P<name>[^:]+):(?P<port>\d+)")  # others have no port


def parse_http_proxy(value: object) -> HttpProxy | None:
    """An address as written; None for none. ValueError says what is allowed, and shows nothing of it: it may hold a password."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        raise ValueError(_HINT)
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError(_HINT) from None
    if parts.scheme in ("https", "socks4", "socks4a", "socks5", "socks5h"):
        raise ValueError(f"this version speaks plain HTTP with proxies, not {parts.scheme}://; {_HINT}")
    if parts.scheme != "http" or not parts.hostname or port == 0 or parts.path.strip("/") or "?" in value or "#" in value:
        raise ValueError(_HINT)
    return HttpProxy(parts.hostname, port or 80, Secret(_basic(parts)))


def _proxy_url(value: object) -> HttpProxy | str | None:
    """As `parse_http_proxy`; `file:/path` of an address stays as it is, for who reads files."""
    return value if isinstance(value, str) and value.startswith("file:") else parse_http_proxy(value)


ProxyUrl = Annotated[
    HttpProxy | str | None, PlainValidator(_proxy_url), WithJsonSchema({"type": ["string", "null"], "examples": ["http://proxy:3128"]})
]


def proxy_of_environment(base_url: str, env: Mapping[str, str]) -> tuple[str, str] | None:
    """The variable that names a proxy for this address, and what it says, with its scheme. None: there is none.

    HTTPS_PROXY for https://, HTTP_PROXY for http://, each in small letters too; never for this machine's own addresses.
    NO_PROXY lists names (which hold for their subdomains too), addresses and networks, each with or without a port; `*` is all.
    """
    parts = urlsplit(base_url)
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if is_loopback(host):
        return None
    if any(_exempts(entry, host, port) for entry in re.split(r"[,\s]+", (env.get("NO_PROXY") or env.get("no_proxy") or "").lower())):
        return None
    for variable in (f"{parts.scheme.upper()}_PROXY", f"{parts.scheme}_proxy"):
        if written := env.get(variable, "").strip():
            return variable, written if "://" in written else f"http://{written}"
    return None


def is_loopback(host: str) -> bool:
    """A name or address that stays on this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _exempts(entry: str, host: str, port: int) -> bool:
    found = _NO_PROXY_ENTRY.fullmatch(entry)
    name, only_port = (found["v6"] or found["name"], found["v6_port"] or found["port"]) if found else (entry, None)
    if only_port is not None and int(only_port) != port:
        return False
    if name == "*":
        return True
    try:
        address = ip_address(host)
    except ValueError:  # a name
        name = name.removeprefix("*").strip(".")
        return name != "" and (host == name or host.endswith(f".{name}"))
    try:
        return address in ip_network(name, strict=False)
    except ValueError:
        return False


def _basic(parts: SplitResult) -> str:
    if parts.username is None:
        return ""
    credentials = unquote_to_bytes(parts.username) + b":" + unquote_to_bytes(parts.password or "")
    return f"Basic {b64encode(credentials).decode()}"
