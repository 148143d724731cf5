"""Errors of our own: always OpenAI's shape, whatever is in them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ApiError, invalid_request

JSON = {"content-type": "application/json"}


def test_all_four_keys_are_there_also_when_they_are_null(assert_openai_error: Any) -> None:
    error = ApiError(404, "invalid_request_error", "There is nothing here.")
    seen = assert_openai_error(error.status, JSON, error.body(), 404)
    assert seen == {"message": "There is nothing here.", "type": "invalid_request_error", "param": None, "code": None}


def test_an_invalid_request_is_a_400_unless_said_otherwise(assert_openai_error: Any) -> None:
    error = invalid_request("Missing required parameter: 'model'.", param="model", code="missing_required_parameter")
    seen = assert_openai_error(error.status, JSON, error.body(), 400, "missing_required_parameter", "invalid_request_error")
    assert seen["param"] == "model"
    assert invalid_request("x", status=404).status == 404


@given(st.text(), st.none() | st.text(), st.none() | st.text())
def test_whatever_is_said_is_valid_json_and_reads_back(message: str, code: str | None, param: str | None) -> None:
    body = invalid_request(message, code=code, param=param).body()
    assert json.loads(body) == {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def test_hints_for_retries_are_not_in_the_body() -> None:
    error = ApiError(429, "requests", "Wait.", code="rate_limit_exceeded", retry_after_ms=1, should_retry=False, close=True)
    assert set(json.loads(error.body())["error"]) == {"message", "type", "param", "code"}
