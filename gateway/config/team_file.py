"""What a file in `teams/` may say: one team. The descriptions are the documentation: JSON Schema carries them into editors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from gateway.catalogue.schema import LimitsModel
from gateway.config.fields import Count, ExpiresUs, KeyHash, Name, Percent, Picousd, Section
from gateway.teams import Budget, Key, RealtimeCaps, Team, UnknownModel


@dataclass(frozen=True, slots=True)
class UnknownModelRule:
    """What happens to a call for a model without a card."""

    policy: UnknownModel
    price_as: str | None = None


def _unknown_model(value: object) -> UnknownModelRule:
    if value == "refuse":
        return UnknownModelRule("refuse")
    if value == "allow_unpriced":
        return UnknownModelRule("allow_unpriced")
    if isinstance(value, dict) and list(value) == ["price_as"] and isinstance(value["price_as"], str) and value["price_as"]:
        return UnknownModelRule("price_as", value["price_as"])
    raise ValueError("one of refuse, allow_unpriced, {price_as: <model>} is needed")


UnknownModelField = Annotated[
    UnknownModelRule,
    PlainValidator(_unknown_model),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["refuse", "allow_unpriced"]},
                {"type": "object", "properties": {"price_as": {"type": "string"}}, "required": ["price_as"], "additionalProperties": False},
            ]
        }
    ),
]


class BudgetSection(Section):
    """What may be spent in a UTC day and month."""

    month_picousd: Picousd | None = Field(None, alias="month_usd", description='Dollars per UTC month, in quotes: "500".')
    day_picousd: Picousd | None = Field(None, alias="day_usd", description='Dollars per UTC day, in quotes: "12.50".')
    soft_percent: list[Percent] = Field([], alias="soft", description="Shares of either that raise an event once: [0.5, 0.8].")

    def to_budget(self) -> Budget:
        """The checked value."""
        return Budget(self.month_picousd, self.day_picousd, tuple(sorted(set(self.soft_percent))))


class RealtimeSection(Section):
    """Caps on realtime sessions; what is left out is not capped."""

    sessions_max: Count | None = Field(None, description="Sessions open at the same time.")
    session_seconds_max: Count | None = Field(None, description="Length of one session.")
    session_picousd_max: Picousd | None = Field(None, alias="session_usd_max", description='Dollars of one session, in quotes: "5".')
    audio_seconds_per_minute_max: Count | None = Field(None, description="Seconds of audio in a minute, all sessions together.")
    audio_seconds_per_day_max: Count | None = Field(None, description="Seconds of audio in a day, all sessions together.")

    def to_caps(self) -> RealtimeCaps:
        """The checked value."""
        return RealtimeCaps(
            sessions_max=self.sessions_max,
            session_seconds_max=self.session_seconds_max,
            session_picousd_max=self.session_picousd_max,
            audio_seconds_per_minute_max=self.audio_seconds_per_minute_max,
            audio_seconds_per_day_max=self.audio_seconds_per_day_max,
        )


class KeySection(Section):
    """One API key of the team. Only its hash is kept; `gateway keys create` prints the key once."""

    id: Name = Field(description="What the key is called in ledger and metrics; unique in the team.")
    hash: KeyHash = Field(description="SHA-256 of the key: sha256: and 64 hex digits.")
    expires_at_us: ExpiresUs = Field(
        None, alias="expires", description="From when the key is refused: a date (00:00 UTC) or a time with its zone (RFC 3339)."
    )
    revoked: bool = Field(False, description="The key is refused.")
    limits: LimitsModel | None = Field(None, description="Limits of this key, over all models.")
    budget: BudgetSection | None = Field(None, description="Budget of this key.")

    def to_key(self) -> Key:
        """The checked value."""
        return Key(
            id=self.id,
            hash=self.hash,
            expires_at_us=self.expires_at_us,
            revoked=self.revoked,
            limits=self.limits.to_limits() if self.limits else None,
            budget=self.budget.to_budget() if self.budget else None,
        )


class TeamFile(Section):
    """teams/<name>.yaml: one team, its keys, models, limits, budget and policies."""

    team: Name = Field(description="The team's name; unique over all files.")
    tier: str = Field(
        "auto", description="A tier of tiers.yaml, or `auto`: `start`, from which no team rises in this version.", min_length=1
    )
    keys: list[KeySection] = Field([], description="The team's API keys.")
    models: list[str] = Field(["*"], description='Models the team may use, by id, alias or snapshot; "*": every model with a card.')
    limits: dict[str, LimitsModel] = Field(
        {}, description="By model (or limit_group): replaces the tier's limits of the kinds it names; the others stay."
    )
    limits_all_models: LimitsModel | None = Field(None, description="Limits over all models together.")
    budget: BudgetSection | None = Field(None, description="What may be spent in a UTC day and month.")
    realtime: RealtimeSection | None = Field(None, description="Caps on realtime sessions.")
    account: str | None = Field(None, description="The upstream account of gateway.yaml; left out: the first.")
    on_client_gone: Literal["cancel", "drain"] = Field(
        "cancel", description="When the client leaves: close the upstream call (cancel), or read on to its usage (drain)."
    )
    drain_seconds_max: Count = Field(60, description="How long `drain` reads on.")
    unknown_model: UnknownModelField = Field(
        UnknownModelRule("refuse"),
        json_schema_extra={"default": "refuse"},
        description="A model without a card: refuse, allow_unpriced, or {price_as: <model>}.",
    )
    unmetered_paths: Literal["refuse", "allow"] = Field("refuse", description="Paths that cost money and are not metered yet.")
    estimate: Literal["learned", "openai"] = Field(
        "learned", description="What a call counts before its usage is known: what was learned, or the full output cap as OpenAI does."
    )
    mode: Literal["enforce", "shadow"] = Field("enforce", description="shadow: decide and record, but let every call pass.")
    days: Literal["rolling", "calendar"] = Field("rolling", description="Daily limits: refilled continuously, or anew each UTC day.")

    def to_team(self) -> Team:
        """The checked value."""
        return Team(
            name=self.team,
            tier=self.tier,
            keys=tuple(key.to_key() for key in self.keys),
            models=tuple(self.models),
            limits={model: limits.to_limits() for model, limits in self.limits.items()},
            limits_all_models=self.limits_all_models.to_limits() if self.limits_all_models else None,
            budget=self.budget.to_budget() if self.budget else None,
            realtime=self.realtime.to_caps() if self.realtime else None,
            account=self.account,
            on_client_gone=self.on_client_gone,
            drain_seconds_max=self.drain_seconds_max,
            unknown_model=self.unknown_model.policy,
            price_unknown_as=self.unknown_model.price_as,
            unmetered_paths=self.unmetered_paths,
            estimate=self.estimate,
            mode=self.mode,
            days=self.days,
        )
