"""What the server itself says no to: requests that make no call, or do not fit."""

from __future__ import annotations

from gateway.errors import ApiError

MALFORMED = ApiError(
    400, "invalid_request_error", "This is not a valid HTTP/1.1 request. Check its request line, headers and framing.", close=True
)
UPGRADE_WITH_BODY = ApiError(
    400, "invalid_request_error", "An upgrade was offered in a request with a body. Send it as plain HTTP/1.1.", close=True
)
FAILED = ApiError(500, "server_error", "The gateway failed to take this request. It was logged; try again.", close=True)
CUT = ApiError(400, "invalid_request_error", "The request ended before its body was whole. Send it again.", close=True)
TOO_SLOW = ApiError(408, "invalid_request_error", "The request did not arrive in time. Send it again, without pauses.", close=True)


def head_too_large(head_bytes_max: int) -> ApiError:
    """Request line and headers beyond `proxy.head_bytes_max`."""
    message = f"The request's URL and headers are longer than {head_bytes_max} bytes. Send fewer or shorter headers."
    return ApiError(431, "invalid_request_error", message, close=True)


def body_too_large(body_bytes_max: int) -> ApiError:
    """A body beyond `proxy.body_bytes_max`."""
    message = f"The request body is longer than the {body_bytes_max} bytes that this gateway takes (proxy.body_bytes_max)."
    return ApiError(413, "invalid_request_error", message, close=True)
