"""What `gateway.yaml` may say. The descriptions are the documentation: JSON Schema carries them into editors."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from gateway.config.fields import (
    BaseUrl,
    Bytes,
    BytesPerToken,
    Count,
    CountOrZero,
    ListenText,
    ListenTexts,
    Milliseconds,
    Name,
    Origins,
    Section,
    SegmentBytes,
    SocketMode,
    default,
)
from gateway.config.http_proxy import ProxyUrl


class TlsSection(Section):
    """Certificate and key for TLS towards clients, PEM files."""

    certificate: str = Field(description="Path of the certificate chain, with or without `file:` before it.", min_length=1)
    key: str = Field(description="Path of the private key, with or without `file:` before it.", min_length=1)


class ProxySection(Section):
    """The listener that applications call, and its bounds."""

    listen: ListenTexts = default(
        "127.0.0.1:8080",
        "Where applications connect: host:port, [::1]:port or unix:/path, or a list of these. Port 0: any free one. "
        "[::] takes IPv4 too, unless an IPv4 address with its port is listed beside it.",
    )
    socket_mode: SocketMode = default("0660", "Who may connect to a Unix socket: its file's mode, in quotes.")
    tls: TlsSection | None = Field(
        None, description="Certificate and key; without, the listener speaks plain HTTP. Unix sockets always do. A renewed file is taken."
    )
    cors_origins: Origins = default(
        [],
        'Origins whose pages may call from a browser, as "https://app.example.com"; "*": any. Empty: none. Keys are needed all the same.',
    )
    head_bytes_max: Bytes = Field(65_536, description="Largest request line and headers, bytes; more is answered 431.")
    body_bytes_max: Bytes = Field(67_108_864, description="Largest request body, bytes; more is answered 413.")
    head_timeout_ms: Milliseconds = Field(30_000, description="How long a client may take to send its headers.")
    body_timeout_ms: Milliseconds = Field(120_000, description="Longest silence inside a request body.")
    idle_timeout_ms: Milliseconds = Field(75_000, description="When an unused client connection is closed.")
    write_timeout_ms: Milliseconds = Field(120_000, description="How long a client may take nothing of its answer.")
    drain_timeout_ms: Milliseconds = Field(30_000, description="How long exchanges may finish after SIGTERM or SIGUSR2.")
    connections_max: Count = Field(10_000, description="Open client connections per worker.")


class AdminSection(Section):
    """The listener for metrics, health and the admin API."""

    listen: ListenText = default("127.0.0.1:9091", "Where operators and Prometheus connect: host:port, [::1]:port or unix:/path.")
    token: SecretStr = Field(SecretStr(""), description="Bearer token, or `file:/path` of it. Empty: only loopback clients are served.")


class AccountSection(Section):
    """One upstream account."""

    base_url: BaseUrl = default("https://api.openai.com/v1", "Address of the API, with its /v1.")
    api_key: SecretStr = Field(SecretStr(""), description="The account's key, or `file:/path` of it.")
    tier: str | None = Field(
        None, description="The account's own usage tier: all teams together stay inside its limits. Left out: not enforced."
    )
    organization: str | None = Field(None, description="Sent as OpenAI-Organization.")
    project: str | None = Field(None, description="Sent as OpenAI-Project.")
    data_residency: bool = Field(False, description="The account is served from a data-residency host: prices with an uplift carry it.")
    ca_file: str | None = Field(None, description="PEM file of certificate authorities to trust instead of the system's.")
    client_certificate: str | None = Field(None, description="PEM file of the certificate chain to show to an upstream that asks for one.")
    client_key: str | None = Field(None, description="PEM file of the private key of `client_certificate`, without a password.")
    proxy_url: ProxyUrl = default(
        None,
        "HTTP proxy on the way to this account: http://[user:password@]host[:port], or `file:/path` of it. Left out: HTTPS_PROXY, "
        'HTTP_PROXY (of an http:// base_url) and NO_PROXY of the environment decide; "": none.',
    )
    connections_max: Count = Field(1_000, description="Connections to this account per worker.")
    idle_timeout_ms: Milliseconds = Field(30_000, description="When an unused connection to the account is closed.")
    connect_timeout_ms: Milliseconds = Field(10_000, description="How long connecting may take, TLS included.")
    first_byte_timeout_ms: Milliseconds = Field(900_000, description="How long an answer may take to begin; long reasoning is normal.")
    stall_timeout_ms: Milliseconds = Field(900_000, description="Longest silence inside an answer.")


class LimitsStoreSection(Section):
    """Where the state of limits is kept."""

    store: str = Field("memory", description="`memory` (one worker). Other stores are not in this version.")
    on_store_error: Literal["share", "refuse", "allow"] = Field(
        "share", description="When the store is away: share (each worker enforces its part), refuse, or allow."
    )


class JournalSection(Section):
    """The append-only files that no exchange may be missing from."""

    folder: str = Field(
        "var/journal", description="Folder on a local disk; relative paths begin where the gateway is started.", min_length=1
    )
    segment_bytes: SegmentBytes = Field(
        16_777_216, description="Size of its files, made ahead of need, two or more for each worker: smaller where the disk is small."
    )


class EstimateSection(Section):
    """What a call is expected to use before anything is learned."""

    output_tokens: Count = Field(1_000, description="Output of a call that states no maximum.")
    history_input_tokens: CountOrZero = Field(
        2_000, description="Input that is kept at OpenAI (previous_response_id, conversation, stored prompt)."
    )
    image_tokens: CountOrZero = Field(1_000, description="Input tokens of an image.")
    file_tokens: CountOrZero = Field(2_000, description="Input tokens of a file, inline, by URL or kept at OpenAI.")
    bytes_per_token: BytesPerToken = Field(4, description="Bytes of text that are counted as one token.")


class MetricsSection(Section):
    """Bounds of what Prometheus sees."""

    series_max: Count = Field(5_000, description="Most label combinations per metric; what is beyond is summed under `other`.")


class GatewayFile(Section):
    """gateway.yaml: listeners, upstream accounts, limits store, journal, ledger and policies."""

    proxy: ProxySection = default({}, "The listener that applications call, and its bounds.")
    admin: AdminSection = default({}, "The listener for metrics, health and the admin API.")
    workers: Count = Field(1, description="Worker processes. This version has only the memory store, which one worker can use.")
    accounts: dict[Name, AccountSection] = Field(description="Upstream accounts by name; the first is the default.", min_length=1)
    limits: LimitsStoreSection = default({}, "Where the state of limits is kept.")
    journal: JournalSection = default({}, "The append-only files that no exchange may be missing from.")
    ledger: str = Field("sqlite:var/ledger.db", description="`sqlite:<path>`. Other ledgers are not in this version.")
    estimate: EstimateSection = default({}, "What a call is expected to use before anything is learned.")
    metrics: MetricsSection = default({}, "Bounds of what Prometheus sees.")
    shipped_cards: bool = Field(
        True, description="Use the model cards that come with the gateway; a card of the same model in models/ replaces the shipped one."
    )
