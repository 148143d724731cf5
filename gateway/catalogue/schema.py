"""What a model card and `tiers.yaml` may say, key by key. Pure.

Pydantic checks the shape, names every problem at once and gives editors a JSON Schema; `to_card` and `to_tiers` make the
frozen values that the rest of the house uses. `config/` reads the files and calls `model_validate`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictInt, model_validator

from gateway.catalogue import Card, PriceTable
from gateway.catalogue.prices import Date, PriceTableModel, Strict
from gateway.catalogue.rates import PRICE_PATTERN, picousd_of, price_text
from gateway.units import Limits

Direction = Literal["input", "output"]
Modality = Literal["text", "audio", "image", "video"]
Feature = Literal["function_calling", "structured_outputs", "fine_tuning", "distillation", "predicted_outputs", "streaming"]
Endpoint = Literal[
    "chat/completions", "responses", "realtime", "realtime/translations", "live", "assistants", "batch", "fine-tuning",
    "embeddings", "images/generations", "images/edits", "images/variations", "audio/speech", "audio/transcriptions",
    "audio/translations", "moderations", "completions", "videos", "decisions", "agents", "evals",
]  # fmt: skip
"""Endpoints as model pages name them, without `/v1/`."""

LIMIT_MAX_PER_MINUTE = 30_000_000_000  # × 60,000 ticks a minute stays under 2**51: see the bucket in the design, section 6
LIMIT_MAX_PER_DAY = 25_000_000  # × 86,400,000 ticks a day likewise


def _whole_picousd(usd: str) -> str:
    picousd_of(usd)
    return usd


def _tier_name(value: str) -> str:
    if value == "auto":
        raise ValueError('a tier cannot be called "auto": teams write `tier: auto` to be promoted by themselves')
    return value


def _once(what: str) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    def check(values: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"each {what} is listed once; found twice: {', '.join(twice)}")
        return values

    return check


ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=200)]
TierName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64), AfterValidator(_tier_name)]
Usd = Annotated[str, Field(pattern=PRICE_PATTERN), BeforeValidator(price_text), AfterValidator(_whole_picousd)]
PerMinute = Annotated[StrictInt, Field(ge=1, le=LIMIT_MAX_PER_MINUTE)]
PerDay = Annotated[StrictInt, Field(ge=1, le=LIMIT_MAX_PER_DAY)]


class LimitsModel(Strict):
    """Limits of one tier. A kind that is left out has no limit, which is not zero."""

    rpm: PerMinute | None = Field(default=None, description="Requests per minute.")
    rpd: PerDay | None = Field(default=None, description="Requests per day.")
    tpm: PerMinute | None = Field(default=None, description="Tokens per minute, input and output together, cached ones included.")

    def to_limits(self) -> Limits:
        """The frozen value."""
        return Limits(rpm=self.rpm, rpd=self.rpd, tpm=self.tpm)


class CardModel(Strict):
    """One file of `config/models/`: what is known of one model."""

    model: ModelName = Field(
        description="The id callers send. It matches exactly, or as an alias or snapshot listed here; never by prefix."
    )
    aliases: Annotated[tuple[ModelName, ...], AfterValidator(_once("alias"))] = Field(
        default=(), description="Other ids of the same model."
    )
    snapshots: Annotated[tuple[ModelName, ...], AfterValidator(_once("snapshot"))] = Field(
        default=(), description="Dated ids. They share this card's prices, unless snapshot_prices names them, and its limits."
    )
    context_window_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    max_output_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    knowledge_cutoff: Date | None = None
    modalities: dict[Modality, tuple[Direction, ...]] = Field(
        default={}, description="Directions by modality; an empty list is: not supported."
    )
    endpoints: Annotated[tuple[Endpoint, ...], AfterValidator(_once("endpoint"))] = Field(
        default=(), description="As the model page names them."
    )
    features: dict[Feature, StrictBool] = Field(default={}, description="As the model page lists them.")
    reasoning: StrictBool = Field(
        default=False,
        description="Bills hidden output tokens, which no count of delivered bytes shows: a call cut short books what was reserved.",
    )
    shutdown_date: Date | None = None
    data_residency_uplift_percent: Annotated[StrictInt, Field(ge=0, le=100)] = Field(
        default=0, description="Added to every price on accounts with `data_residency: true`."
    )
    prices: tuple[PriceTableModel, ...] = Field(default=(), description="The newest that is effective when the exchange ends applies.")
    snapshot_prices: dict[ModelName, tuple[PriceTableModel, ...]] = Field(
        default={}, description="For snapshots that do not share the card's tables: only these hold for them."
    )
    limits: dict[TierName, LimitsModel] = Field(
        default={}, description="By tier. When given, a tier that is not listed may not use the model."
    )
    limit_group: ModelName | None = Field(default=None, description="Cards of one group share their buckets; default: the model alone.")

    @model_validator(mode="after")
    def _check(self) -> CardModel:
        names = (self.model, *self.aliases, *self.snapshots)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"model, aliases and snapshots are different names; found twice: {', '.join(twice)}")
        for name in self.snapshot_prices:
            if name not in self.snapshots:
                allowed = ", ".join(self.snapshots) or "none, as the card lists no snapshots"
                raise ValueError(f"snapshot_prices: {name} is not a snapshot of this card; allowed: {allowed}")
        for where, tables in (("prices", self.prices), *((f"snapshot_prices: {name}", own) for name, own in self.snapshot_prices.items())):
            dates = [table.effective_from for table in tables]
            if len(set(dates)) < len(dates):
                raise ValueError(f"{where}: each table has its own effective_from; found one twice")
        return self

    def to_card(self) -> Card:
        """The frozen value, tables oldest first, rates exact."""

        def tables(name: str, models: tuple[PriceTableModel, ...]) -> tuple[PriceTable, ...]:
            ordered = sorted(models, key=lambda table: table.effective_from)
            return tuple(table.to_table(name, reasoning=self.reasoning) for table in ordered)

        return Card(
            model=self.model,
            aliases=self.aliases,
            snapshots=self.snapshots,
            context_window_tokens=self.context_window_tokens,
            max_output_tokens=self.max_output_tokens,
            knowledge_cutoff=self.knowledge_cutoff.isoformat() if self.knowledge_cutoff else None,
            modalities=dict(self.modalities.items()),
            endpoints=self.endpoints,
            features=dict(self.features.items()),
            reasoning=self.reasoning,
            shutdown_date=self.shutdown_date.isoformat() if self.shutdown_date else None,
            data_residency_uplift_percent=self.data_residency_uplift_percent,
            prices=tables(self.model, self.prices),
            snapshot_prices={name: tables(name, own) for name, own in self.snapshot_prices.items()},
            limits={tier: limits.to_limits() for tier, limits in self.limits.items()},
            limit_group=self.limit_group or self.model,
        )


class TierModel(Strict):
    """What a team must have done to hold a tier: every condition, counted from its own ledger."""

    spent_usd: Usd = Field(default="0", description="USD spent in all, a quoted string.")
    days: Annotated[StrictInt, Field(ge=0)] = Field(default=0, description="Whole days since the first use.")
    requests: Annotated[StrictInt, Field(ge=0)] = Field(default=0, description="Requests in all.")


class TierRule(NamedTuple):
    """A tier and its conditions, checked."""

    name: str
    spent_picousd: int
    days: int
    requests: int


class Tiers(NamedTuple):
    """`tiers.yaml`, checked: where an `auto` team begins, the tiers from the lowest to the highest, limits for cards without any."""

    start_tier: str
    tiers: tuple[TierRule, ...]
    default_limits: dict[str, Limits]


class TiersModel(Strict):
    """`config/tiers.yaml`."""

    start: TierName = Field(description="Where a team with `tier: auto` begins.")
    tiers: dict[TierName, TierModel] = Field(min_length=1, description="Lowest first.")
    default_limits: dict[TierName, LimitsModel] = Field(default={}, description="By tier, for model cards that state no limits.")

    @model_validator(mode="after")
    def _check(self) -> TiersModel:
        allowed = ", ".join(self.tiers)
        if self.start not in self.tiers:
            raise ValueError(f"start: {self.start} is not a tier; allowed: {allowed}")
        if unknown := [name for name in self.default_limits if name not in self.tiers]:
            raise ValueError(f"default_limits: {', '.join(unknown)} is not a tier; allowed: {allowed}")
        return self

    def to_tiers(self) -> Tiers:
        """The checked value; money in pico-dollars."""
        return Tiers(
            start_tier=self.start,
            tiers=tuple(TierRule(name, picousd_of(tier.spent_usd), tier.days, tier.requests) for name, tier in self.tiers.items()),
            default_limits={name: limits.to_limits() for name, limits in self.default_limits.items()},
        )
