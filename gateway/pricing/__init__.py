"""Step 8, price: usage times price card, in exact integers. Pure.

Rates are integers of 1/RATE_SCALE pico-dollar, products are summed exactly, and the sum is rounded up once per entry. What has
no price makes the whole exchange `Unpriced`, which names it: never zero, and never another price in its place (this overrides
the fallback to text prices in reference/usage-and-pricing.md section 2 rule 5). Never knows teams, limits, endpoints or the clock.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from gateway.catalogue import RATE_SCALE, Card, PriceTable, Rates
from gateway.units import INPUT_METERS, Meter, Usage

UnpricedReason = Literal["no_table", "no_service_tier", "no_rate", "negative_quantity"]
"""no_table: the card had no prices yet when the exchange ended. no_service_tier: the table has no row for the tier served.
no_rate: the row lacks the meters named. negative_quantity: usage that cannot be; it would lower a bill."""

STANDARD = "standard"
_ROW_OF = {None: STANDARD, "": STANDARD, "default": STANDARD, "auto": STANDARD, "standard": STANDARD, "scale": STANDARD, "fast": "priority"}
"""Rows by `service_tier` of the response, where they are not called the same (reference, section 2 rule 6; scale has its own contract)."""


class Priced(msgspec.Struct, frozen=True):
    """What an exchange cost, and by which table."""

    cost_picousd: int
    price_version: str


class Unpriced(msgspec.Struct, frozen=True):
    """There is no price. `meters` are those without one: all that were used, when a whole row or table is missing."""

    meters: frozenset[Meter]
    reason: UnpricedReason
    price_version: str | None  # None: no table was effective


class CostClass(StrEnum):
    """Kinds of cost that metrics tell apart (`cost_class`)."""

    INPUT = "input"  # text and image tokens, written to the cache or not
    CACHED_INPUT = "cached_input"  # text and image tokens
    OUTPUT = "output"  # text and image tokens
    AUDIO = "audio"  # audio tokens in either direction, cached too, and minutes listened to
    TOOL = "tool"
    OTHER = "other"  # characters, images and seconds of video by the piece

    __hash__ = str.__hash__  # as Meter: equal to its text, also as a key


_CLASS_OF = {
    Meter.INPUT_TEXT: CostClass.INPUT,
    Meter.INPUT_IMAGE: CostClass.INPUT,
    Meter.CACHE_WRITE_TEXT: CostClass.INPUT,
    Meter.CACHE_WRITE_12H_TEXT: CostClass.INPUT,
    Meter.CACHED_TEXT: CostClass.CACHED_INPUT,
    Meter.CACHED_IMAGE: CostClass.CACHED_INPUT,
    Meter.OUTPUT_TEXT: CostClass.OUTPUT,
    Meter.OUTPUT_IMAGE: CostClass.OUTPUT,
    Meter.INPUT_AUDIO: CostClass.AUDIO,
    Meter.CACHED_AUDIO: CostClass.AUDIO,
    Meter.OUTPUT_AUDIO: CostClass.AUDIO,
    Meter.DURATION_IN_MS: CostClass.AUDIO,
    Meter.DURATION_OUT_MS: CostClass.OTHER,
    Meter.CHARACTERS: CostClass.OTHER,
    Meter.IMAGES: CostClass.OTHER,
    Meter.WEB_SEARCH_CALLS: CostClass.TOOL,
    Meter.WEB_SEARCH_PREVIEW_CALLS: CostClass.TOOL,
    Meter.FILE_SEARCH_CALLS: CostClass.TOOL,
    Meter.CONTAINER_SESSIONS: CostClass.TOOL,
    Meter.CONTAINER_4G_SESSIONS: CostClass.TOOL,
    Meter.CONTAINER_16G_SESSIONS: CostClass.TOOL,
    Meter.CONTAINER_64G_SESSIONS: CostClass.TOOL,
}


def cost_class(meter: Meter) -> CostClass:
    """The kind of cost that a meter's makes."""
    return _CLASS_OF[meter]


def price(
    card: Card, model_served: str, service_tier: str | None, usage: Usage, ended_at_us: int, *, data_residency: bool = False
) -> Priced | Unpriced:
    """Cost of one exchange, exact and rounded up once. Total: any usage gives one of the two.

    `model_served` and `service_tier` are as the response says them; `ended_at_us` (unix time) picks the table. A meter with quantity 0
    needs no price; a missing table or row makes even empty usage Unpriced, since there is nothing to book it under.
    """
    table = _table_at(card, model_served, ended_at_us)
    if table is None:
        return Unpriced(_used(usage), "no_table", None)
    return _priced(card, table, _row(table, service_tier, usage), usage, data_residency=data_residency)


def _priced(card: Card, table: PriceTable, rates: Rates | None, usage: Usage, *, data_residency: bool) -> Priced | Unpriced:
    if rates is None:
        return Unpriced(_used(usage), "no_service_tier", table.version)
    total = 0
    for meter, quantity in usage.items():
        rate = rates.get(meter)
        if quantity <= 0 or rate is None:
            if quantity == 0:
                continue
            return _unpriced(usage, rates, table.version)
        total += quantity * rate
    if data_residency and card.data_residency_uplift_percent:
        cost_picousd = -(-total * (100 + card.data_residency_uplift_percent) // (100 * RATE_SCALE))
    else:
        cost_picousd = -(-total // RATE_SCALE)
    return Priced(cost_picousd, table.version)


def price_ask(
    card: Card, model_asked: str, service_tier_asked: str | None, ask: Usage, at_us: int, *, data_residency: bool = False
) -> Priced | Unpriced:
    """Cost of a worst case, before the call: as `price`, but all plain text input may turn out to be written to the cache.

    Where a write of 30 minutes costs more than input (GPT-5.6 and later), input is taken at that price. A write of 12 hours is only
    made when the call asks for it: such an ask holds its input in that meter. The tier asked for is at least as dear as what is served.
    """
    table = _table_at(card, model_asked, at_us)
    if table is None:
        return Unpriced(_used(ask), "no_table", None)
    rates = _row(table, service_tier_asked, ask)
    text = ask.get(Meter.INPUT_TEXT, 0)
    if text and rates and rates.get(Meter.CACHE_WRITE_TEXT, 0) > rates.get(Meter.INPUT_TEXT, 0):
        ask = {**ask, Meter.INPUT_TEXT: 0, Meter.CACHE_WRITE_TEXT: ask.get(Meter.CACHE_WRITE_TEXT, 0) + text}
    return _priced(card, table, rates, ask, data_residency=data_residency)


def cost_lines(
    card: Card, model_served: str, service_tier: str | None, usage: Usage, ended_at_us: int, *, data_residency: bool = False
) -> dict[CostClass, int] | Unpriced:
    """The cost that `price` gives for the same arguments, by class, in pico-dollars: the lines sum to it exactly.

    Each line is within one pico-dollar of its exact share: rounding is of the running sum, so that no line carries more than its own.
    Classes that were not used are left out.
    """
    priced = price(card, model_served, service_tier, usage, ended_at_us, data_residency=data_residency)
    if isinstance(priced, Unpriced):
        return priced
    table = _table_at(card, model_served, ended_at_us)
    rates = _row(table, service_tier, usage) if table else None
    percent = 100 + (card.data_residency_uplift_percent if data_residency else 0)
    exact: dict[CostClass, int] = {}
    for meter, quantity in usage.items():
        if quantity and rates:
            kind = _CLASS_OF[meter]
            exact[kind] = exact.get(kind, 0) + quantity * rates[meter] * percent
    lines: dict[CostClass, int] = {}
    running = booked = 0
    for kind in CostClass:
        if kind in exact:
            running += exact[kind]
            upto = -(-running // (100 * RATE_SCALE))
            lines[kind], booked = upto - booked, upto
    return lines


def _table_at(card: Card, model: str, at_us: int) -> PriceTable | None:
    """The newest table that is effective. A snapshot with prices of its own has only those."""
    tables = card.prices
    if card.snapshot_prices:
        tables = card.snapshot_prices.get(model, tables)
    for table in reversed(tables):
        if table.effective_from_us <= at_us:
            return table
    return None


def _row(table: PriceTable, service_tier: str | None, usage: Usage) -> Rates | None:
    """The rates of the tier, for long context when all input together is above the threshold; None: the table has no such row."""
    row = _ROW_OF.get(service_tier, service_tier)
    above_tokens = table.long_context_above_tokens
    if above_tokens is not None and sum(usage.get(meter, 0) for meter in INPUT_METERS) > above_tokens:
        return table.long_context if row == STANDARD else table.long_context_service_tiers.get(row or "")
    return table.standard if row == STANDARD else table.service_tiers.get(row or "")


def _unpriced(usage: Usage, rates: Rates, version: str) -> Unpriced:
    negative = frozenset(meter for meter, quantity in usage.items() if quantity < 0)
    if negative:
        return Unpriced(negative, "negative_quantity", version)
    return Unpriced(frozenset(meter for meter, quantity in usage.items() if quantity and meter not in rates), "no_rate", version)


def _used(usage: Usage) -> frozenset[Meter]:
    return frozenset(meter for meter, quantity in usage.items() if quantity)
