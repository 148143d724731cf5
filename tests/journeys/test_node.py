"""The official Node client: one script that calls, streams and waits, and what it saw held against the ledger."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "node"


@pytest.fixture
def node() -> str:
    """Node with the client installed. On a bare machine the journey is skipped; in CI it must be there."""
    found = shutil.which("node")
    missing = "there is no `node`" if found is None else "`npm install` was not run in tests/journeys/node"
    if found is None or not (FOLDER / "node_modules" / "openai").is_dir():
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def test_the_node_client_sees_what_is_booked(journey: Any, node: str) -> None:
    environment = {
        "OPENAI_BASE_URL": journey.base_url,
        "OPENAI_API_KEY": journey.place.keys["voice"],
        "CHATTY_KEY": journey.team("nodes-chatty", limits={"gpt-4o": {"tpm": 600_000}}),
        "POOR_KEY": journey.team("nodes-poor", limits={"gpt-4o": {"rpd": 1}}),
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run([node, FOLDER / "calls.mjs"], capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    entries = journey.entries()
    chat, stream, with_usage, response, response_stream, retrieved, deleted, embeddings, *others = entries

    assert chat["exchange_id"] == seen["chat"]["exchange_id"]
    assert chat["upstream_request_id"] == seen["chat"]["request_id"]
    assert (seen["chat"]["limit"], seen["chat"]["organization"]) == ("10000", None)
    assert seen["chat"]["text"] == seen["stream"]["text"] == seen["stream_with_usage"]["text"] != ""
    assert (seen["stream"]["usages"], seen["stream_with_usage"]["usages"]) == ([], [seen["chat"]["usage"]])
    assert chat["usage"] == stream["usage"] == with_usage["usage"]
    assert chat["usage"]["output_text"] == seen["chat"]["usage"]["completion_tokens"]

    assert (response["answer_id"], seen["retrieved"]) == (seen["response"]["id"],) * 2
    assert response["usage"]["output_text"] == seen["response"]["usage"]["output_tokens"]
    assert seen["response_stream"]["last"] == "response.completed"
    assert response_stream["usage"]["output_text"] == seen["response_stream"]["usage"]["output_tokens"]
    assert (retrieved["endpoint"], deleted["endpoint"]) == ("responses/retrieve", "responses/delete")
    assert embeddings["usage"] == {"input_text": seen["embeddings"]["usage"]["prompt_tokens"]}
    assert seen["embeddings"]["lengths"] == [64, 64]

    assert seen["unknown_model"] == {"name": "NotFoundError", "status": 404, "code": "model_not_found"}
    assert seen["wrong_key"] == {"name": "AuthenticationError", "status": 401, "code": "invalid_api_key"}
    assert (seen["waited"], seen["hopeless_statuses"]) == ([200, 429, 200], [200, 429])
    assert seen["hopeless"] == {"name": "RateLimitError", "status": 429, "code": "rate_limit_exceeded"}
    assert [(entry["team"], entry["retry_count"]) for entry in others] == [("nodes-chatty", 0), ("nodes-chatty", 1), ("nodes-poor", 0)]
