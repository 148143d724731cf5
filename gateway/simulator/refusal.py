"""What the simulator refuses, in OpenAI's shape. Source: reference/limits-and-errors.md section 4."""

from __future__ import annotations

import msgspec


class Refusal(Exception):
    """A request that is answered with an error; not billed. Raised anywhere below the server, which answers it."""

    def __init__(self, status: int, kind: str, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers: dict[str, str] = {}
        self.error = {"message": message, "type": kind, "param": param, "code": code}

    def body(self) -> bytes:
        """The JSON body: {"error": {"message", "type", "param", "code"}}, all four always there."""
        return msgspec.json.encode({"error": self.error})


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """400 invalid_request_error."""
    return Refusal(400, "invalid_request_error", message, code, param)


def missing(param: str) -> Refusal:
    """400: a required parameter is not there."""
    return invalid(f"Missing required parameter: '{param}'.", param)


def no_model(name: str) -> Refusal:
    """404: there is no such model, here."""
    return Refusal(404, "invalid_request_error", f"The model `{name}` does not exist or you do not have access to it.", "model_not_found")
