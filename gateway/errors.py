"""Every error a caller can see, in OpenAI's shape. Pure.

Expected outcomes are values: a step returns an ApiError and the path answers with it. OpenAI's own errors pass through
untouched and never become one of these.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from gateway.units import div_ceil


@dataclass(frozen=True, slots=True)
class ApiError:
    """What a caller sees: {"error": {"message", "type", "param", "code"}}, all four keys always there.

    Source of the shape: reference/limits-and-errors.md section 4.
    """

    status: int
    type: str
    message: str  # a sentence: what happened, what to do
    code: str | None = None
    param: str | None = None
    retry_after_ms: int | None = None
    should_retry: bool | None = None  # None: leave it to the SDK's own rule for the status
    close: bool = False  # the connection cannot be used for another request

    def retry_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """What tells SDKs when to come back, if at all. Both forms of the wait: some read only one.

        Source: reference/limits-and-errors.md section 5.
        """
        headers: list[tuple[bytes, bytes]] = []
        if self.retry_after_ms is not None:
            headers.append((b"retry-after", b"%d" % div_ceil(self.retry_after_ms, 1000)))
            headers.append((b"retry-after-ms", b"%d" % self.retry_after_ms))
        if self.should_retry is not None:
            headers.append((b"x-should-retry", b"true" if self.should_retry else b"false"))
        return tuple(headers)

    def body(self) -> bytes:
        """The JSON body."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


def invalid_request(message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> ApiError:
    """The request cannot be served as it stands; sending it again will not help."""
    return ApiError(status, "invalid_request_error", message, code=code, param=param)
