"""Every target. A new reader of foreign bytes is one row."""

from __future__ import annotations

from . import answers, bodies, clients, configuration, control_socket, entries, journals, reports, requests, streams, tunnels
from .grammar import EVENTS, HTTP, JSON, YAML
from .growing import GROWING
from .target import Target

_READERS = (
    # from clients
    Target("request", requests.check_requests, requests.request_seeds, grows=requests.grow_requests, input_bytes_max=1_024, grammar=HTTP),
    Target("route", clients.check_route, clients.route_seeds, input_bytes_max=256),
    Target("credentials", clients.check_credentials, clients.credential_seeds, grows=clients.grow_credentials, input_bytes_max=256),
    Target("body", bodies.check_body, bodies.body_seeds, grows=bodies.grow_body, grammar=JSON),
    Target("edit", bodies.check_edit, bodies.edit_seeds, input_bytes_max=1_024, grammar=JSON),
    # from OpenAI
    Target("answer", answers.check_answer, answers.answer_seeds, grows=answers.grow_answer, input_bytes_max=1_024, grammar=HTTP),
    Target(
        "chat-stream",
        streams.check_chat_stream,
        streams.chat_stream_seeds,
        grows=streams.grow_chat_stream,
        input_bytes_max=2_048,
        grammar=EVENTS,
    ),
    Target(
        "responses-stream",
        streams.check_responses_stream,
        streams.responses_stream_seeds,
        grows=streams.grow_responses_stream,
        grammar=EVENTS,
    ),
    Target("whole-answer", reports.check_whole_answer, reports.whole_answer_seeds, grows=reports.grow_whole_answer, grammar=JSON),
    Target("usage", reports.check_usage, reports.usage_seeds, grows=reports.grow_usage, input_bytes_max=1_024, grammar=JSON),
    Target("models", reports.check_models, reports.models_seeds, input_bytes_max=512, grammar=JSON),
    Target("entry", entries.check_entry, entries.entry_seeds, grammar=JSON),
    Target("tunnel", tunnels.check_tunnel, tunnels.tunnel_seeds, input_bytes_max=512, grammar=HTTP),
    # between the gateway's own processes, and from disk
    Target("journal", journals.check_journal, journals.journal_seeds, input_bytes_max=64),
    Target("segments", journals.check_segments, journals.segment_seeds, grows=journals.grow_segments, input_bytes_max=2_048),
    Target("books", entries.check_books, entries.books_seeds, input_bytes_max=2_048),
    Target("control", control_socket.check_control, control_socket.control_seeds, input_bytes_max=2_048),
    # from operators
    Target(
        "configuration",
        configuration.check_configuration,
        configuration.configuration_seeds,
        grows=configuration.grow_document,
        grammar=YAML,
    ),
    Target("values", configuration.check_values, configuration.value_seeds, input_bytes_max=128),
    Target("admin", configuration.check_admin, configuration.admin_seeds, input_bytes_max=256),
)

_GROWING = tuple(growth for reader in _READERS if (growth := reader.growing(GROWING.get(reader.name, ()))) is not None)

TARGETS = {target.name: target for target in (*_READERS, *_GROWING)}
