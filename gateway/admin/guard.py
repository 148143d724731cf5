"""Who may ask. Pure decisions over what a request shows of itself."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from gateway.errors import ApiError

FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via")


def refusal(token: str, method: str, peer_host: str | None, headers: Mapping[str, str]) -> ApiError | None:
    """Why this request is not served; None: it is.

    `peer_host`: the address of the other end; None: a Unix socket, whose file mode says who may connect.
    """
    if token:
        return None if _bears(token, headers.get("Authorization", "")) else _unauthorized()
    if peer_host is not None and not _is_loopback(peer_host):
        return _forbidden("Without admin.token in gateway.yaml only this machine is served.")
    if any(name in headers for name in FORWARDED):
        return _forbidden("A proxy passed this on. Without admin.token in gateway.yaml only this machine is served.")
    if not _names_loopback(headers.get("Host", "")):  # a page whose name was rebound to 127.0.0.1 still sends its own name
        return _forbidden("The Host header must name this machine: localhost, 127.0.0.1 or [::1].")
    return _from_another_site(method, headers)


def _from_another_site(method: str, headers: Mapping[str, str]) -> ApiError | None:
    """A page of another site can make a browser send POST here, though not read the answer."""
    if method in ("GET", "HEAD"):
        return None
    origin = headers.get("Origin")
    same_origin = origin is None or _host_of(origin) == headers.get("Host", "").lower()
    if not same_origin or headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return _forbidden("A request from another site is not served.")
    return None


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # no browser's
        return None


def _bears(token: str, authorization: str) -> bool:
    scheme, _, given = authorization.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())


def _names_loopback(host_header: str) -> bool:
    try:
        name = urlsplit(f"//{host_header}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _unauthorized() -> ApiError:
    message = "Incorrect or missing admin token. Send it as 'Authorization: Bearer <admin.token of gateway.yaml>'."
    return ApiError(401, "invalid_request_error", message, code="invalid_admin_token")


def _forbidden(message: str) -> ApiError:
    return ApiError(403, "invalid_request_error", message, code="forbidden")
