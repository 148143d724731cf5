"""What tests of several rooms share."""

from __future__ import annotations

import json
from typing import Any, Protocol

import pytest


class AssertOpenaiError(Protocol):
    """`headers` have lower-case names. Gives back the error object, for what only one test looks at."""

    def __call__(
        self, status_seen: int, headers: dict[str, str], body: bytes, status: int, code: str | None = None, type: str | None = None
    ) -> dict[str, Any]: ...


@pytest.fixture(scope="session")
def assert_openai_error() -> AssertOpenaiError:
    """The one checker of errors that callers see: OpenAI's shape, with all four keys and nothing else."""

    def check(
        status_seen: int, headers: dict[str, str], body: bytes, status: int, code: str | None = None, type: str | None = None
    ) -> dict[str, Any]:
        assert status_seen == status, f"{status_seen}: {body!r}"
        assert headers.get("content-type", "").startswith("application/json")
        error: dict[str, Any] = json.loads(body)["error"]
        assert list(json.loads(body)) == ["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == code
        assert isinstance(error["type"], str)
        assert error["type"] in ({type} if type else {"invalid_request_error", "server_error", "requests", "tokens"})
        assert error["message"].endswith((".", ")")) or " " in error["message"]
        if status == 429:
            retryable = headers.get("x-should-retry") != "false"
            assert "retry-after" in headers or not retryable
            assert ("retry-after" in headers) == ("retry-after-ms" in headers)
        return error

    return check
