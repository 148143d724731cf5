"""What one price table of a model card may say, and the rates that come of it. Pure.

Two rules of the reference (usage-and-pricing.md section 2) are applied here, where prices become rates, so that pricing itself
is a plain product: tool fees are the same for every model (rule 10), and Batch does not discount cached input where the table
gives no cached price for it (rule 7). Everything else that is not stated has no price.
"""

from __future__ import annotations

from datetime import date, datetime
from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, model_validator

from gateway.catalogue import PriceTable, Rates
from gateway.catalogue.rates import PER_MILLION, PER_MINUTE_MS, PER_ONE, PER_THOUSAND, PRICE_PATTERN, price_text, rate_of
from gateway.units import DAY_US, TOKEN_METERS, Meter

ServiceTier = Literal["batch", "flex", "priority", "ultrafast"]
"""Rows beside the standard one, by the `service_tier` of the response; `batch` is chosen by the Batch API."""

SERVICE_TIERS: tuple[ServiceTier, ...] = ("batch", "flex", "priority", "ultrafast")


class Strict(BaseModel):
    """A mapping in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _date(value: object) -> object:
    if isinstance(value, datetime) or not isinstance(value, (date, str)):
        raise ValueError(f"a date is YYYY-MM-DD, without a time; found {value}")
    if isinstance(value, str):
        try:
            return datetime.strptime(value, "%Y-%m-%d").date()
        except ValueError:
            raise ValueError(f'a date is YYYY-MM-DD; found "{value}"') from None
    return value


def _whole(usd: str, per_units: int) -> str:
    rate_of(usd, per_units)
    return usd


Date = Annotated[date, BeforeValidator(_date)]
_Price = Annotated[str, Field(pattern=PRICE_PATTERN, examples=["2.50"]), BeforeValidator(price_text)]
UsdPerMillion = Annotated[_Price, AfterValidator(partial(_whole, per_units=PER_MILLION))]
UsdPerMinute = Annotated[_Price, AfterValidator(partial(_whole, per_units=PER_MINUTE_MS))]
UsdPerThousand = Annotated[_Price, AfterValidator(partial(_whole, per_units=PER_THOUSAND))]
UsdPerOne = Annotated[_Price, AfterValidator(partial(_whole, per_units=PER_ONE))]


class TextPrices(Strict):
    """USD per million text tokens."""

    input: UsdPerMillion | None = None
    cached: UsdPerMillion | None = Field(default=None, description="Input that was read from the cache.")
    cache_write: UsdPerMillion | None = Field(default=None, description="Input that was written to the cache for 30 minutes.")
    cache_write_12h: UsdPerMillion | None = Field(default=None, description="Input that was written to the cache for 12 hours.")
    output: UsdPerMillion | None = Field(default=None, description="Reasoning tokens included.")


class MediaPrices(Strict):
    """USD per million audio or image tokens."""

    input: UsdPerMillion | None = None
    cached: UsdPerMillion | None = Field(default=None, description="Input that was read from the cache.")
    output: UsdPerMillion | None = None


class TokenPrices(Strict):
    """One row: USD per million tokens by modality. What is left out has no price, which is not zero."""

    text: TextPrices = TextPrices()
    audio: MediaPrices = MediaPrices()
    image: MediaPrices = MediaPrices()

    def to_rates(self, *, images_as_text: bool) -> Rates:
        """Rates of the prices that are stated."""
        prices = {
            Meter.INPUT_TEXT: self.text.input,
            Meter.INPUT_AUDIO: self.audio.input,
            Meter.INPUT_IMAGE: self.image.input,
            Meter.CACHED_TEXT: self.text.cached,
            Meter.CACHED_AUDIO: self.audio.cached,
            Meter.CACHED_IMAGE: self.image.cached,
            Meter.CACHE_WRITE_TEXT: self.text.cache_write,
            Meter.CACHE_WRITE_12H_TEXT: self.text.cache_write_12h,
            Meter.OUTPUT_TEXT: self.text.output,
            Meter.OUTPUT_AUDIO: self.audio.output,
            Meter.OUTPUT_IMAGE: self.image.output,
        }
        if images_as_text:
            prices[Meter.INPUT_IMAGE] = prices[Meter.INPUT_IMAGE] or self.text.input
            prices[Meter.CACHED_IMAGE] = prices[Meter.CACHED_IMAGE] or self.text.cached
        return {meter: rate_of(usd, PER_MILLION) for meter, usd in prices.items() if usd is not None}


class MinutePrices(Strict):
    """USD per minute of audio taken in, or of media given out. Billed by the millisecond."""

    input: UsdPerMinute | None = None
    output: UsdPerMinute | None = None


class CallPrices(Strict):
    """USD per thousand tool calls. Defaults are the fees of all models; see `tool_fees`."""

    web_search: UsdPerThousand = "10"
    web_search_preview: UsdPerThousand | None = Field(default=None, description='Default: "25", and "10" on models that reason.')
    file_search: UsdPerThousand = "2.50"


class ContainerPrices(Strict):
    """USD per container session of 20 minutes, by memory. Defaults are the fees of all models; see `tool_fees`."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    memory_1g: UsdPerOne = Field(default="0.03", alias="1g")
    memory_4g: UsdPerOne = Field(default="0.12", alias="4g")
    memory_16g: UsdPerOne = Field(default="0.48", alias="16g")
    memory_64g: UsdPerOne = Field(default="1.92", alias="64g")


def tool_fees(calls: CallPrices, containers: ContainerPrices, *, reasoning: bool) -> Rates:
    """Fees for tool calls, the same in every row of a table.

    Source: reference/usage-and-pricing.md section 2 rule 10 (pricing page, copy of 2026-07-15): web search $10 per thousand calls on all
    models, the preview tool $25 on models that do not reason; file search $2.50; containers $0.03, $0.12, $0.48, $1.92.
    """
    preview = calls.web_search_preview or ("10" if reasoning else "25")
    return {
        Meter.WEB_SEARCH_CALLS: rate_of(calls.web_search, PER_THOUSAND),
        Meter.WEB_SEARCH_PREVIEW_CALLS: rate_of(preview, PER_THOUSAND),
        Meter.FILE_SEARCH_CALLS: rate_of(calls.file_search, PER_THOUSAND),
        Meter.CONTAINER_SESSIONS: rate_of(containers.memory_1g, PER_ONE),
        Meter.CONTAINER_4G_SESSIONS: rate_of(containers.memory_4g, PER_ONE),
        Meter.CONTAINER_16G_SESSIONS: rate_of(containers.memory_16g, PER_ONE),
        Meter.CONTAINER_64G_SESSIONS: rate_of(containers.memory_64g, PER_ONE),
    }


class LongContextPrices(Strict):
    """Rows for calls with long input. Above the threshold the whole call has these prices, not the part above it."""

    above_input_tokens: Annotated[StrictInt, Field(ge=1)] = Field(description="All input together, cached and written included.")
    usd_per_million_tokens: TokenPrices
    service_tiers: dict[ServiceTier, TokenPrices] = Field(default={}, description="Likewise, by tier served.")


class PriceTableModel(Strict):
    """The prices of a card from one date on."""

    effective_from: Date = Field(description="From the start of this day, UTC, until the next table.")
    source: Annotated[str, Field(min_length=1)] = Field(description="Where the figures come from.")
    free: StrictBool = Field(default=False, description="Tokens cost nothing in any service tier. Tool fees stay.")
    usd_per_million_tokens: TokenPrices | None = None
    image_input_priced_as_text: StrictBool = Field(
        default=False,
        description="Image tokens of the input have the text prices of the same row, as on models with one price for all input.",
    )
    usd_per_minute: MinutePrices = MinutePrices()
    usd_per_million_characters: UsdPerMillion | None = None
    usd_per_image: UsdPerOne | None = None
    usd_per_thousand_calls: CallPrices = CallPrices()
    usd_per_container_session: ContainerPrices = ContainerPrices()
    service_tiers: dict[ServiceTier, TokenPrices] = Field(
        default={}, description="A call that was served in a tier without a row is unpriced: no other row stands in for it."
    )
    long_context: LongContextPrices | None = None

    @model_validator(mode="after")
    def _check(self) -> PriceTableModel:
        other_units = self._other_units()
        if self.free and (self.usd_per_million_tokens or self.service_tiers or self.long_context or other_units):
            raise ValueError("a table that is `free: true` states no other prices; remove one or the other")
        if not (self.free or self.usd_per_million_tokens or other_units):
            raise ValueError(
                "a table states usd_per_million_tokens, usd_per_minute, usd_per_million_characters, usd_per_image "
                "or `free: true`; found none of them"
            )
        return self

    def _other_units(self) -> Rates:
        prices = {
            Meter.DURATION_IN_MS: (self.usd_per_minute.input, PER_MINUTE_MS),
            Meter.DURATION_OUT_MS: (self.usd_per_minute.output, PER_MINUTE_MS),
            Meter.CHARACTERS: (self.usd_per_million_characters, PER_MILLION),
            Meter.IMAGES: (self.usd_per_image, PER_ONE),
        }
        return {meter: rate_of(usd, per_units) for meter, (usd, per_units) in prices.items() if usd is not None}

    def to_table(self, name: str, *, reasoning: bool) -> PriceTable:
        """The frozen value. `name` is the model or snapshot whose prices these are; it goes into the version."""
        fees = tool_fees(self.usd_per_thousand_calls, self.usd_per_container_session, reasoning=reasoning)

        def row(prices: TokenPrices) -> Rates:
            return {**prices.to_rates(images_as_text=self.image_input_priced_as_text), **fees}

        def rows(tiers: dict[ServiceTier, TokenPrices]) -> dict[str, Rates]:
            return {tier: row(_batch_row(prices) if tier == "batch" else prices) for tier, prices in tiers.items()}

        version, effective_from_us = f"{name}@{self.effective_from.isoformat()}", (self.effective_from - date(1970, 1, 1)).days * DAY_US
        if self.free:
            nothing = {**dict.fromkeys(TOKEN_METERS, 0), **fees}
            return PriceTable(version, effective_from_us, self.source, nothing, {tier: {**nothing} for tier in SERVICE_TIERS})
        long = self.long_context
        return PriceTable(
            version=version,
            effective_from_us=effective_from_us,
            source=self.source,
            standard={**row(self.usd_per_million_tokens or TokenPrices()), **self._other_units()},
            service_tiers=rows(self.service_tiers),
            long_context_above_tokens=long.above_input_tokens if long else None,
            long_context=row(long.usd_per_million_tokens) if long else {},
            long_context_service_tiers=rows(long.service_tiers) if long else {},
        )


def _batch_row(prices: TokenPrices) -> TokenPrices:
    """The row with cached input at the price of input where no cached price is given: Batch has no discount for it then.

    Source: reference/usage-and-pricing.md section 2 rule 7 and example E12.
    """
    changed = {
        name: modality.model_copy(update={"cached": modality.cached or modality.input})
        for name, modality in (("text", prices.text), ("audio", prices.audio), ("image", prices.image))
    }
    return prices.model_copy(update=changed)
