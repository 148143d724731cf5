"""What the server itself says no to: requests that make no call, or do not fit."""

from __future__ import annotations

from gateway.errors import ApiError
from gateway.relay.call import Call

MALFORMED = ApiError(
    400, "invalid_request_error", "This is not a valid HTTP/1.1 request. Check its request line, headers and framing.", close=True
)
UPGRADE_WITH_BODY = ApiError(
    400, "invalid_request_error", "An upgrade was offered in a request with a body. Send it as plain HTTP/1.1.", close=True
)
FAILED = ApiError(500, "server_error", "The gateway failed to take this request. It was logged; try again.", close=True)
CUT = ApiError(400, "invalid_request_error", "The request ended before its body was whole. Send it again.", close=True)
TOO_MANY = ApiError(
    503,
    "server_error",
    "The gateway has as many connections open as it takes (proxy.connections_max). Try again in a moment.",
    retry_after_ms=1_000,
    close=True,
)
EXPECTATION = ApiError(
    417, "invalid_request_error", "This gateway meets no expectation but `100-continue`. Send the request without `Expect`.", close=True
)
TOO_SLOW = ApiError(408, "invalid_request_error", "The request did not arrive in time. Send it again, without pauses.", close=True)


def head_too_large(head_bytes_max: int) -> ApiError:
    """Request line and headers beyond `proxy.head_bytes_max`."""
    message = f"The request's URL and headers are longer than {head_bytes_max} bytes. Send fewer or shorter headers."
    return ApiError(431, "invalid_request_error", message, close=True)


def body_too_large(body_bytes_max: int) -> ApiError:
    """A body beyond `proxy.body_bytes_max`."""
    message = f"The request body is longer than the {body_bytes_max} bytes that this gateway takes (proxy.body_bytes_max)."
    return ApiError(413, "invalid_request_error", message, close=True)


def framing_problem(call: Call, *, upgrades: bool, body_bytes_max: int) -> ApiError | None:
    """What is wrong with how a request says where it ends, where llhttp is more lenient; None: nothing."""
    length: bytes | None = None
    chunked = hosts = 0
    for name, value in call.headers:
        if name == b"content-length":
            if length is not None or not value.isdigit():
                return MALFORMED
            length = value
        elif name == b"transfer-encoding":
            chunked += 1
            if value.strip().lower() != b"chunked":
                return MALFORMED
        elif name == b"host":
            hosts += 1
    if chunked > 1 or (chunked and (length is not None or call.http_10)) or hosts > 1 or (hosts == 0 and not call.http_10):
        return MALFORMED
    if length is not None and (len(length) > 15 or int(length) > body_bytes_max):
        return body_too_large(body_bytes_max)
    if call.method == "CONNECT":
        return MALFORMED
    if upgrades and (chunked or (length or b"0") != b"0"):
        return UPGRADE_WITH_BODY  # llhttp ends such a message at its head: its body would be read as the next request
    return None
