"""Configuration at one moment: checked, frozen, and the same in every process.

Books read and check the files and send this value to the workers; a worker makes `Facts` of it, its index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from zlib import crc32

import msgspec

from gateway.admission import Limit
from gateway.admission.limits import TierExcludes, limits_for
from gateway.catalogue import Card, Catalogue
from gateway.teams import Identity, Key, Team

SLICE_TEAMS = 64  # on average: half a millisecond to decode
SLICE_TEAMS_MAX = 4 * SLICE_TEAMS


class Secret(msgspec.Struct, frozen=True):
    """A text that never shows in a log or a traceback."""

    value: str

    def __repr__(self) -> str:
        return "Secret('***')" if self.value else "Secret('')"


class Listen(msgspec.Struct, frozen=True):
    """An address to listen on: host and port, or the path of a Unix socket (then host is "" and port 0)."""

    host: str
    port: int
    path: str = ""


class Tls(msgspec.Struct, frozen=True):
    """Certificate chain and key files (PEM). With other contents it is another value, so that a renewed certificate is taken."""

    certificate_file: str
    key_file: str
    digest: str = ""  # of what both held when they were checked


class ProxySettings(msgspec.Struct, frozen=True):
    """The data plane's listener and its bounds."""

    listen: tuple[Listen, ...]
    tls: Tls | None = None  # on TCP; Unix sockets speak plain HTTP
    socket_mode: int = 0o660
    cors_origins: tuple[str, ...] = ()  # "https://app.example.com", or "*" for any
    head_bytes_max: int = 65_536
    body_bytes_max: int = 67_108_864  # JSON bodies with images inside run to tens of megabytes
    head_timeout_ms: int = 30_000
    body_timeout_ms: int = 120_000  # of silence inside a body
    idle_timeout_ms: int = 75_000
    write_timeout_ms: int = 120_000  # a client that takes nothing for so long is gone
    drain_timeout_ms: int = 30_000
    connections_max: int = 10_000


class HttpProxy(msgspec.Struct, frozen=True):
    """The HTTP proxy on the way to an account. It opens a tunnel (CONNECT), and what it says itself is never taken for OpenAI's answer."""

    host: str
    port: int
    authorization: Secret = Secret("")  # the value of Proxy-Authorization; empty: none is sent


class Account(msgspec.Struct, frozen=True):
    """One upstream account."""

    name: str
    base_url: str  # scheme://host[:port][/prefix], without a trailing slash; ends in /v1 for OpenAI
    api_key: Secret
    tier: str | None = None  # None: the account's own limits are not enforced here
    organization: str | None = None
    project: str | None = None
    data_residency: bool = False
    ca_file: str | None = None
    ca_digest: str = ""  # of what it held when it was checked, as `Tls.digest`
    client_certificate: Tls | None = None  # shown to the upstream that asks for one
    http_proxy: HttpProxy | None = None  # `proxy_url`, or HTTPS_PROXY of the environment
    connections_max: int = 1_000
    idle_timeout_ms: int = 30_000
    connect_timeout_ms: int = 10_000
    first_byte_timeout_ms: int = 900_000
    stall_timeout_ms: int = 900_000  # of silence inside an answer


class AdminSettings(msgspec.Struct, frozen=True):
    """The admin port. An empty token serves loopback clients only."""

    listen: Listen
    token: Secret


class EstimateSettings(msgspec.Struct, frozen=True):
    """What a call is expected to use before anything is learned."""

    output_tokens: int = 1_000
    history_input_tokens: int = 2_000  # of a conversation kept at OpenAI
    image_tokens: int = 1_000
    file_tokens: int = 2_000  # of a file in the input, whatever its size
    bytes_per_token: int = 4


class Settings(msgspec.Struct, frozen=True):
    """gateway.yaml, checked."""

    proxy: ProxySettings
    admin: AdminSettings
    accounts: tuple[Account, ...]  # the first is the default
    workers: int = 1
    store_url: str = "memory"
    on_store_error: str = "share"
    journal_folder: str = "var/journal"
    journal_segment_bytes: int = 16 * 1024 * 1024
    ledger_url: str = "sqlite:var/ledger.db"
    estimate: EstimateSettings = EstimateSettings()
    metrics_series_max: int = 5_000  # per metric


class Tier(msgspec.Struct, frozen=True):
    """What a team must have done to hold this tier."""

    name: str
    spent_picousd: int = 0
    days: int = 0
    requests: int = 0


class Snapshot(msgspec.Struct, frozen=True):
    """Everything that is configured. Encodes to MessagePack for the control socket, secrets included."""

    settings: Settings
    catalogue: Catalogue
    tiers: tuple[Tier, ...]  # lowest first
    start_tier: str
    teams: tuple[Team, ...]
    config_hash: str  # of the files' contents
    loaded_at_us: int
    team_tiers: dict[str, str] = {}  # of `auto` teams, where the ledger has promoted them
    learned_output_tokens: dict[str, int] = {}  # p95 by "team\0model\0endpoint"
    learned_input_tokens: dict[str, int] = {}  # p95 of calls whose input is kept at OpenAI, by the same key


class Sliced(msgspec.Struct, frozen=True, array_like=True):
    """What goes over the control socket: a snapshot without its teams, and slices of its teams, each encoded by itself."""

    snapshot: Snapshot
    slices: tuple[bytes, ...]


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """As MessagePack, secrets included: for the control socket only. `SnapshotReader` reads it slice by slice."""
    slices = tuple(msgspec.msgpack.encode(teams) for teams in _sliced(snapshot.teams))
    return msgspec.msgpack.encode(Sliced(msgspec.structs.replace(snapshot, teams=()), slices))


def decode_snapshot(encoded: bytes) -> Snapshot:
    """What `encode_snapshot` made, at once; msgspec.DecodeError (ValidationError included) on anything else."""
    sliced = msgspec.msgpack.decode(encoded, type=Sliced)
    return msgspec.structs.replace(sliced.snapshot, teams=tuple(team for raw in sliced.slices for team in decode_teams(raw)))


def decode_teams(encoded: bytes) -> tuple[Team, ...]:
    """One slice; msgspec.DecodeError on anything else."""
    return _TEAMS.decode(encoded)


def identities_of(teams: Iterable[Team]) -> dict[str, Identity]:
    """Whom each key names, by its hash."""
    return {key.hash: Identity(team, key) for team in teams for key in team.keys}


def _sliced(teams: tuple[Team, ...]) -> Iterator[tuple[Team, ...]]:
    """Cut behind teams whose name says so, and not by count: one that comes or goes moves no other cut."""
    begin = 0
    for end, team in enumerate(teams, start=1):
        if crc32(team.name.encode()) % SLICE_TEAMS == 0 or end - begin == SLICE_TEAMS_MAX:
            yield teams[begin:end]
            begin = end
    if begin < len(teams):
        yield teams[begin:]


_TEAMS = msgspec.msgpack.Decoder(tuple[Team, ...])


class Facts:
    """A snapshot with its indexes: what one exchange keeps from its first step to its last."""

    __slots__ = ("_limits", "accounts", "by_key_hash", "cards", "snapshot", "tiers")

    def __init__(self, snapshot: Snapshot, by_key_hash: dict[str, Identity] | None = None) -> None:
        """`by_key_hash`: where it was made already."""
        self.snapshot = snapshot
        self.by_key_hash: dict[str, Identity] = identities_of(snapshot.teams) if by_key_hash is None else by_key_hash
        self.cards: dict[str, Card] = snapshot.catalogue.by_name()
        self.accounts: dict[str, Account] = {account.name: account for account in snapshot.settings.accounts}
        self._limits: dict[tuple[str, str, str | None], tuple[Limit, ...] | TierExcludes] = {}  # by team, key, model: found once
        start = snapshot.start_tier
        self.tiers: dict[str, str] = {
            team.name: snapshot.team_tiers.get(team.name, start) if team.tier == "auto" else team.tier for team in snapshot.teams
        }

    def account_of(self, team: Team) -> Account:
        """The upstream account that carries this team's calls."""
        return self.accounts[team.account] if team.account else self.snapshot.settings.accounts[0]

    def limits_of(self, team: Team, key: Key, card: Card | None) -> tuple[Limit, ...] | TierExcludes:
        """The buckets of a key on a model. The same for every call of this snapshot, so worked out once."""
        place = (team.name, key.id, card.model if card else None)
        found = self._limits.get(place)
        if found is None:
            account, default_limits = self.account_of(team), self.snapshot.catalogue.default_limits
            found = limits_for(team, key, card, self.tiers[team.name], default_limits, account.name, account.tier)
            self._limits[place] = found
        return found
