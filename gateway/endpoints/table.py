"""The table: one row an endpoint. A new endpoint is one row, perhaps one reader, and one recorded case.

Source: reference/endpoints.md sections 1 and 2. Paths are without `/v1`, which is optional for callers.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import msgspec

from gateway.errors import ApiError
from gateway.metering.answers import (
    read_chat_answer,
    read_compaction_answer,
    read_completion_answer,
    read_embedding_answer,
    read_plain_answer,
    read_response_answer,
)
from gateway.metering.body import CallBody, read_chat, read_completion, read_embedding, read_moderation, read_response
from gateway.metering.edit import with_include_usage
from gateway.metering.observers import AnswerObserver, ChatStreamObserver, Observer, ResponsesStreamObserver

ReadBody = Callable[[bytes], CallBody | ApiError]


class Kind(Enum):
    """What an endpoint means for the bill."""

    METERED = "metered"  # billed, and its usage is read
    FREE = "free"  # costs nothing; counted as a request
    UNMETERED = "unmetered"  # known to be billed and not metered yet: refused unless the team allows it
    WITHHELD = "withheld"  # would show a team what all the others have stored: refused
    UNKNOWN = "unknown"  # not in this table: passed through and counted; nobody knows what it costs


class Endpoint(msgspec.Struct, frozen=True):
    """One row. `{name}` in the path stands for one segment; `{rest}` at its end for any further ones."""

    name: str  # the ledger's and the metrics' word for it
    method: str
    path: str
    kind: Kind
    read: ReadBody | None = None  # the request's body; None: nothing in it matters here
    observe: Callable[[], Observer] | None = None  # a whole JSON answer
    observe_stream: Callable[[CallBody | None], Observer] | None = None  # text/event-stream
    prepare_stream: Callable[[bytes], bytes] | None = None  # the body of a call that streams, before it goes upstream
    owned_id: str | None = None  # the path's parameter that names a stored object; only the team that made it may touch it
    lists_models: bool = False  # its answer names models: a team sees its own
    late_usage: bool = False  # its answer may show the usage of an exchange that ended without one


def _chat_stream(body: CallBody | None) -> Observer:
    return ChatStreamObserver(usage_asked=body is not None and body.usage_asked)


def _responses_stream(_body: CallBody | None) -> Observer:
    return ResponsesStreamObserver()


def _metered(
    name: str,
    read: ReadBody,
    observe: Callable[[], Observer],
    observe_stream: Callable[[CallBody | None], Observer] | None = None,
    prepare_stream: Callable[[bytes], bytes] | None = None,
) -> Endpoint:
    return Endpoint(name, "POST", f"/{name}", Kind.METERED, read, observe, observe_stream, prepare_stream)


def _free(name: str, method: str, path: str) -> Endpoint:
    return Endpoint(name, method, path, Kind.FREE)


def _response(name: str, method: str, path: str) -> Endpoint:
    return Endpoint(
        name, method, path, Kind.FREE, owned_id="response_id", late_usage=True, observe=_whole_response, observe_stream=_responses_stream
    )


def _unmetered(name: str, path: str, method: str = "POST") -> Endpoint:
    return Endpoint(name, method, path, Kind.UNMETERED)


def _whole_response() -> Observer:
    return AnswerObserver(read_response_answer)


ENDPOINTS = (
    # metered
    _metered(
        "chat/completions", read_chat, lambda: AnswerObserver(read_chat_answer),
        observe_stream=_chat_stream, prepare_stream=with_include_usage,
    ),
    _metered(
        "completions", read_completion, lambda: AnswerObserver(read_completion_answer),
        observe_stream=_chat_stream, prepare_stream=with_include_usage,
    ),
    _metered("responses", read_response, _whole_response, observe_stream=_responses_stream),
    _metered("responses/compact", read_response, lambda: AnswerObserver(read_compaction_answer)),
    _metered("embeddings", read_embedding, lambda: AnswerObserver(read_embedding_answer)),
    Endpoint("moderations", "POST", "/moderations", Kind.FREE, read_moderation),
    Endpoint("responses/input_tokens", "POST", "/responses/input_tokens", Kind.FREE, read_response),
    # stored objects of a team
    _response("responses/retrieve", "GET", "/responses/{response_id}"),
    _response("responses/cancel", "POST", "/responses/{response_id}/cancel"),
    Endpoint("responses/delete", "DELETE", "/responses/{response_id}", Kind.FREE, owned_id="response_id"),
    Endpoint("responses/input_items", "GET", "/responses/{response_id}/input_items", Kind.FREE, owned_id="response_id"),
    Endpoint("chat/completions/stored", "GET", "/chat/completions/{completion_id}", Kind.FREE, owned_id="completion_id"),
    Endpoint("chat/completions/stored", "POST", "/chat/completions/{completion_id}", Kind.FREE, owned_id="completion_id"),
    Endpoint("chat/completions/stored", "DELETE", "/chat/completions/{completion_id}", Kind.FREE, owned_id="completion_id"),
    Endpoint("chat/completions/stored", "GET", "/chat/completions/{completion_id}/messages", Kind.FREE, owned_id="completion_id"),
    # whatever else hangs on them is theirs as well
    *(
        Endpoint(f"{stored}/other", method, f"/{stored}/{{{owned_id}}}/{{rest}}", kind, owned_id=owned_id)
        for stored, owned_id in (("responses", "response_id"), ("chat/completions", "completion_id"))
        for method, kind in (("GET", Kind.FREE), ("DELETE", Kind.FREE), ("POST", Kind.UNKNOWN))
    ),
    Endpoint("chat/completions/list", "GET", "/chat/completions", Kind.WITHHELD),
    Endpoint("conversations", "POST", "/conversations", Kind.FREE, observe=lambda: AnswerObserver(read_plain_answer)),
    *(
        Endpoint("conversations/other", method, path, Kind.FREE, owned_id="conversation_id")
        for path in ("/conversations/{conversation_id}", "/conversations/{conversation_id}/{rest}")
        for method in ("GET", "POST", "DELETE")
    ),
    # what a team may see
    Endpoint("models", "GET", "/models", Kind.FREE, lists_models=True),
    _free("models/retrieve", "GET", "/models/{model}"),
    # billed by OpenAI, and not metered yet
    _unmetered("audio/speech", "/audio/speech"),
    _unmetered("audio/transcriptions", "/audio/transcriptions"),
    _unmetered("audio/translations", "/audio/translations"),
    _unmetered("images", "/images/{rest}"),
    _unmetered("videos", "/videos"),
    _unmetered("videos", "/videos/{rest}"),
    _unmetered("batches", "/batches"),
    _unmetered("fine_tuning/jobs", "/fine_tuning/jobs"),
    _unmetered("fine_tuning/graders", "/fine_tuning/alpha/graders/{rest}"),
    _unmetered("threads/runs", "/threads/runs"),
    _unmetered("threads/runs", "/threads/{thread_id}/runs"),
    _unmetered("threads/runs", "/threads/{thread_id}/runs/{run_id}/submit_tool_outputs"),
    _unmetered("evals/runs", "/evals/{eval_id}/runs"),
    _unmetered("decisions", "/decisions"),
    _unmetered("agents", "/agents/{rest}"),
    _unmetered("vector_stores", "/vector_stores"),
    _unmetered("vector_stores/search", "/vector_stores/{vector_store_id}/search"),
    _unmetered("containers", "/containers"),
    _unmetered("realtime", "/realtime", "GET"),
    _unmetered("realtime", "/realtime"),
    _unmetered("realtime", "/realtime/{rest}", "GET"),
    _unmetered("realtime", "/realtime/{rest}"),
    _unmetered("responses/websocket", "/responses", "GET"),
    _unmetered("live", "/live/sessions", "GET"),
    _unmetered("live", "/live/{rest}"),
    # free by the reference; GET and DELETE of anything else are free as well
    _free("batches/cancel", "POST", "/batches/{batch_id}/cancel"),
    _free("fine_tuning/jobs", "POST", "/fine_tuning/jobs/{rest}"),
    _free("files", "POST", "/files"),
    _free("uploads", "POST", "/uploads"),
    _free("uploads", "POST", "/uploads/{rest}"),
    _free("assistants", "POST", "/assistants"),
    _free("assistants", "POST", "/assistants/{rest}"),
    _free("threads", "POST", "/threads"),
    _free("threads", "POST", "/threads/{thread_id}"),
    _free("threads", "POST", "/threads/{thread_id}/messages"),
    _free("threads", "POST", "/threads/{thread_id}/messages/{message_id}"),
    _free("threads/runs", "POST", "/threads/{thread_id}/runs/{run_id}"),
    _free("threads/runs", "POST", "/threads/{thread_id}/runs/{run_id}/cancel"),
    _free("vector_stores", "POST", "/vector_stores/{vector_store_id}"),
    _free("vector_stores", "POST", "/vector_stores/{vector_store_id}/files"),
    _free("vector_stores", "POST", "/vector_stores/{vector_store_id}/files/{file_id}"),
    _free("vector_stores", "POST", "/vector_stores/{vector_store_id}/file_batches"),
    _free("vector_stores", "POST", "/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel"),
    _free("containers", "POST", "/containers/{container_id}/files"),
)  # fmt: skip
