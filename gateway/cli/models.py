"""`gateway models`: the model cards: prices, limits, capabilities."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.configuration import DEFAULT_FOLDER, ConfigOption, JsonOption, load_or_stop
from gateway.cli.screen import BAD, Column, printable, show_json, show_table, stop

if TYPE_CHECKING:
    from gateway.catalogue import Card, PriceTable, Rates
    from gateway.config.load import Loaded
    from gateway.units import Limits, Meter

models = typer.Typer(help="The model cards: prices, limits, capabilities.", invoke_without_command=True)

COLUMNS = [
    Column("model"), Column("unit"), *(Column(name, right=True) for name in ("input", "cached", "output")),
    Column("rpm", right=True, spare=2), Column("rpd", right=True, spare=3), Column("tpm", right=True, spare=1),
]  # fmt: skip
PER_MILLION, PER_MINUTE_MS, PER_THOUSAND = 1_000_000, 60_000, 1_000


@models.callback()
def list_models(
    context: typer.Context,
    tier: Annotated[str | None, typer.Option(help="Show the limits of this tier; left out: where `auto` teams start.")] = None,
    config: ConfigOption = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Every model with its price now (USD per million text tokens, standard tier) and its limits. `gateway models show NAME` tells all."""
    if context.invoked_subcommand is not None:
        return
    loaded = _loaded(config)
    tier = tier or loaded.start_tier
    if all(tier != known.name for known in loaded.tiers):
        stop(f"there is no tier '{printable(tier)}'; tiers: {', '.join(known.name for known in loaded.tiers)}", BAD)
    if as_json:
        show_json({"models": _as_json(loaded)})
        return
    now_us = time.time_ns() // 1000
    rows = [_row(card, tier, loaded, now_us) for card in loaded.catalogue.cards]
    show_table(COLUMNS, rows, title=f"USD now, standard tier; limits of {tier}")


@models.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Model, alias or snapshot.")],
    config: ConfigOption = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """One card: prices with their dates and sources, limits by tier, context."""
    from gateway.config.problems import nearest

    loaded = _loaded(config)
    names = loaded.catalogue.by_name()
    card = names.get(name)
    if card is None:
        near = nearest(name, names)
        stop(f"there is no model '{printable(name)}'; {f'did you mean {near}?' if near else '`gateway models` lists them'}", BAD)
    if as_json:
        show_json(next(shown for shown in _as_json(loaded) if shown["model"] == card.model))
        return
    for line in _card_lines(card, loaded):
        print(printable(line))


def _loaded(config: Path) -> Loaded:
    """The configuration; where there is none, what comes with the gateway."""
    from gateway.config.shipped import shipped_folder

    named = config != DEFAULT_FOLDER or "GATEWAY_CONFIG" in os.environ
    return load_or_stop(config) if named or config.is_dir() else load_or_stop(shipped_folder(), "demo")


def _as_json(loaded: Loaded) -> list[dict[str, Any]]:
    from gateway.admin.facts import models_shown

    return models_shown(loaded.snapshot(0))


def _row(card: Card, tier: str, loaded: Loaded, now_us: int) -> list[str]:
    from gateway.catalogue import limits_of
    from gateway.units import Meter

    tables = [table for table in card.prices if table.effective_from_us <= now_us]
    rates = tables[-1].standard if tables else {}
    text = (Meter.INPUT_TEXT, Meter.CACHED_TEXT, Meter.OUTPUT_TEXT)
    prices = [_price(rates, meter) for meter in text]
    unit = "1M text tokens" if any(meter in rates for meter in text) else "other, see show" if rates else "no price"
    limits = limits_of(card, tier, loaded.catalogue.default_limits)
    return [card.model, unit, *prices, *(_limit(limits, kind) for kind in ("rpm", "rpd", "tpm"))]


def _price(rates: Rates, meter: Meter) -> str:
    return usd_per(rates[meter], PER_MILLION) if meter in rates else "-"


def _limit(limits: Limits | None, kind: str) -> str:
    """A limit in its column: `no` where the tier may not use the model, - where there is no limit."""
    if limits is None:
        return "no"
    units = getattr(limits, kind)
    return "-" if units is None else f"{units:,}" if sys.stdout.isatty() else str(units)


def usd_per(rate: int, units: int) -> str:
    """What so many units cost, as it is written on a card: 150_000_000_000 for a million -> "2.50"."""
    from gateway.catalogue import RATE_SCALE
    from gateway.units import PICOUSD_PER_USD, usd_text

    picousd = Fraction(rate * units, RATE_SCALE)
    if picousd.denominator == 1:
        return usd_text(int(picousd))
    usd = picousd / PICOUSD_PER_USD
    return format(Decimal(usd.numerator) / Decimal(usd.denominator), "f")


def _unit(meter: Meter) -> tuple[int, str]:
    """How many units of this meter prices are printed for."""
    from gateway.units import TOKEN_METERS, Meter

    if meter in TOKEN_METERS:
        return PER_MILLION, "1M tokens"
    if meter is Meter.CHARACTERS:
        return PER_MILLION, "1M characters"
    if meter in (Meter.DURATION_IN_MS, Meter.DURATION_OUT_MS):
        return PER_MINUTE_MS, "minute"
    return (PER_THOUSAND, "1,000 calls") if meter.endswith("_calls") else (1, "piece")


def _card_lines(card: Card, loaded: Loaded) -> Iterator[str]:
    yield f"model          {card.model}"
    facts = {
        "aliases": ", ".join(card.aliases),
        "snapshots": ", ".join(card.snapshots),
        "context": f"{card.context_window_tokens:,} tokens" if card.context_window_tokens else "",
        "max output": f"{card.max_output_tokens:,} tokens" if card.max_output_tokens else "",
        "knowledge": f"until {card.knowledge_cutoff}" if card.knowledge_cutoff else "",
        "modalities": "; ".join(f"{name} {' and '.join(ways) or 'not supported'}" for name, ways in card.modalities.items()),
        "endpoints": ", ".join(card.endpoints),
        "features": ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in card.features.items()),
        "shutdown": card.shutdown_date or "",
        "shares limits": f"with the group {card.limit_group}" if card.limit_group != card.model else "",
        "uplift": f"{card.data_residency_uplift_percent} % with data residency" if card.data_residency_uplift_percent else "",
    }
    yield from (f"{name:14} {fact}" for name, fact in facts.items() if fact)
    yield "limits" if card.limits else "limits (defaults of tiers.yaml: the card states none)"
    for tier, limits in (card.limits or loaded.catalogue.default_limits).items():
        yield f"  {tier:12} " + "  ".join(f"{kind} {_limit(limits, kind)}" for kind in ("rpm", "rpd", "tpm"))
    for owner, tables in (("", card.prices), *card.snapshot_prices.items()):
        for table in tables:
            yield from _table_lines(owner, table)


def _table_lines(owner: str, table: PriceTable) -> Iterator[str]:
    yield f"prices         {table.version}{f' of {owner}' if owner else ''}"
    yield f"  source       {table.source}"
    parts = {"standard": table.standard, **table.service_tiers}
    if table.long_context_above_tokens is not None:
        above = f"above {table.long_context_above_tokens:,} input tokens"
        long = {"standard": table.long_context, **table.long_context_service_tiers}
        parts |= {f"{tier}, {above}": rates for tier, rates in long.items()}
    for tier, rates in parts.items():
        yield f"  {tier}"
        for meter, rate in rates.items():
            units, per = _unit(meter)
            yield f"    {meter:26} ${usd_per(rate, units)} / {per}"
