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
TOO_MANY_AHEAD = ApiError(
    400, "invalid_request_error", "Too many requests were sent ahead on this connection. Wait for answers, or open another.", close=True
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
    if call.repeats_headers and _repeats_framing(call):
        return MALFORMED
    length, coding = call.header(b"content-length"), call.header(b"transfer-encoding")
    if coding is not None and (length is not None or call.http_10 or coding.strip().lower() != b"chunked"):
        return MALFORMED
    if call.method == "CONNECT" or (not call.http_10 and call.header(b"host") is None):
        return MALFORMED
    if length is not None:
        if not length.isdigit():
            return MALFORMED
        if len(length) > 15 or int(length) > body_bytes_max:
            return body_too_large(body_bytes_max)
    if upgrades and (coding is not None or (length or b"0") != b"0"):
        return UPGRADE_WITH_BODY  # llhttp ends such a message at its head: its body would be read as the next request
    return None


def _repeats_framing(call: Call) -> bool:
    names = [name for name, _ in call.headers]
    return any(names.count(name) > 1 for name in (b"content-length", b"transfer-encoding", b"host"))
