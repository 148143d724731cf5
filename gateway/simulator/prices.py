"""What OpenAI charges for what the simulator serves: a table of its own, in Decimal, told nothing by the gateway.

Prices are strings from reference/usage-and-pricing.md section 4 (USD per million tokens) and its rules 6, 8 and 10. The
gateway reads its prices from elsewhere and adds in integers: where the two disagree, one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context, Decimal, localcontext

from gateway.units import INPUT_METERS, PICOUSD_PER_USD, Meter

Rates = Mapping[Meter, Decimal]
"""USD per million of each meter."""

LONG_CONTEXT_TOKENS = 272_000  # more input than this makes the whole request dearer, where a model has `long_context`
STANDARD_TIERS = frozenset({"default", "auto", "scale"})
# 60 digits: every quotient rounds up beyond anything that could change the pico-dollar.
EXACT = Context(prec=60, rounding=ROUND_CEILING)

USD_EACH: dict[Meter, Decimal] = {
    Meter.WEB_SEARCH_CALLS: Decimal("0.01"),
    Meter.WEB_SEARCH_PREVIEW_CALLS: Decimal("0.025"),
    Meter.FILE_SEARCH_CALLS: Decimal("0.0025"),
    Meter.CONTAINER_SESSIONS: Decimal("0.03"),
    Meter.CONTAINER_4G_SESSIONS: Decimal("0.12"),
    Meter.CONTAINER_16G_SESSIONS: Decimal("0.48"),
    Meter.CONTAINER_64G_SESSIONS: Decimal("1.92"),
}
"""Fees per call or session: the same for every service tier, and for every model but one:"""
PREVIEW_SEARCH_USD_WHERE_REASONING = Decimal("0.01")  # the preview tool is dearer only on models that do not reason
REASONING_FAMILIES = ("gpt-5", "gpt-6", "o1", "o3", "o4")
NOT_REASONING = frozenset({"gpt-5-search-api"})


@dataclass(frozen=True, slots=True)
class Price:
    """One row of the table: rates of the standard tier, of those others the model has, and what is not counted in tokens."""

    standard: Rates = field(default_factory=dict)
    tiers: Mapping[str, Rates] = field(default_factory=dict)
    long_context: bool = False
    usd_per_minute: Decimal | None = None


def _rates(**usd_per_million: str | None) -> Rates:
    return {Meter(name): Decimal(usd) for name, usd in usd_per_million.items() if usd is not None}


def _text(given: str, cached: str | None, output: str) -> Rates:
    return _rates(input_text=given, cached_text=cached, output_text=output)


def _writes(given: str, cached: str, write: str, output: str) -> Rates:
    """GPT-5.6 and later: what is written to the cache costs 1.25 times the input, 2.5 times if kept for 12 hours."""
    return {
        **_text(given, cached, output),
        Meter.CACHE_WRITE_TEXT: Decimal(write),
        Meter.CACHE_WRITE_12H_TEXT: Decimal(given) * Decimal("2.5"),
    }


def _times(rates: Rates, factor: str) -> Rates:
    return {meter: usd * Decimal(factor) for meter, usd in rates.items()}


def _sound(text: tuple[str, str | None, str], audio: tuple[str, str | None, str], image: tuple[str, str] | None = None) -> Price:
    given, cached, output = audio
    rates = {**_text(*text), **_rates(input_audio=given, cached_audio=cached, output_audio=output)}
    if image:
        rates.update(_rates(input_image=image[0], cached_image=image[1]))
    return Price(rates)


def _modern(given: str, cached: str, write: str, output: str, *, ultrafast: bool = False) -> Price:
    standard = _writes(given, cached, write, output)
    tiers = {"flex": _times(standard, "0.5"), "priority": _times(standard, "2")}
    if ultrafast:
        tiers["ultrafast"] = _times(standard, "6")
    return Price(standard, tiers, long_context=True)


def _pictures(text: tuple[str, str], image: tuple[str, str], image_out: str, text_out: str | None = None) -> Price:
    return Price(
        _rates(
            input_text=text[0], cached_text=text[1], input_image=image[0], cached_image=image[1],
            output_image=image_out, output_text=text_out,
        )
    )  # fmt: skip


TEXT_PRICES: dict[str, Price] = {
    "gpt-4o": Price(_text("2.50", "1.25", "10"), {"priority": _text("4.25", "2.125", "17")}),
    "gpt-4o-2024-05-13": Price(_text("5", None, "15"), {"priority": _text("8.75", None, "26.25")}),
    "gpt-4o-mini": Price(_text("0.15", "0.075", "0.60"), {"priority": _text("0.25", "0.125", "1")}),
    "gpt-4.1": Price(_text("2", "0.50", "8"), {"priority": _text("3.50", "0.875", "14")}),
    "gpt-4.1-mini": Price(_text("0.40", "0.10", "1.60"), {"priority": _text("0.70", "0.175", "2.80")}),
    "gpt-4.1-nano": Price(_text("0.10", "0.025", "0.40"), {"priority": _text("0.20", "0.05", "0.80")}),
    "gpt-5-mini": Price(_text("0.25", "0.025", "2"), {"flex": _text("0.125", "0.0125", "1"), "priority": _text("0.45", "0.045", "3.60")}),
    "gpt-5-nano": Price(_text("0.05", "0.005", "0.40"), {"flex": _text("0.025", "0.0025", "0.20")}),
    "gpt-5-pro": Price(_text("15", None, "120")),
    "gpt-5.2": Price(_text("1.75", "0.175", "14"), {"flex": _text("0.875", "0.0875", "7"), "priority": _text("3.50", "0.35", "28")}),
    "gpt-5.4": Price(
        _text("2.50", "0.25", "15"),
        {"flex": _text("1.25", "0.13", "7.50"), "priority": _text("5", "0.50", "30")},
        long_context=True,
    ),
    "gpt-5.4-mini": Price(
        _text("0.75", "0.075", "4.50"), {"flex": _text("0.375", "0.0375", "2.25"), "priority": _text("1.50", "0.15", "9")}
    ),
    "gpt-5.4-nano": Price(_text("0.20", "0.02", "1.25"), {"flex": _text("0.10", "0.01", "0.625")}),
    "gpt-5.5": Price(
        _text("5", "0.50", "30"),
        {"flex": _text("2.50", "0.25", "15"), "priority": _text("12.50", "1.25", "75")},
        long_context=True,
    ),
    **dict.fromkeys(
        ("gpt-5", "gpt-5.1"),
        Price(_text("1.25", "0.125", "10"), {"flex": _text("0.625", "0.0625", "5"), "priority": _text("2.50", "0.25", "20")}),
    ),
    **dict.fromkeys(
        ("gpt-5.4-pro", "gpt-5.5-pro"),
        Price(_text("30", None, "180"), {"flex": _text("15", None, "90")}, long_context=True),
    ),
    **dict.fromkeys(("gpt-5.6", "gpt-5.6-sol"), _modern("4", "0.40", "5", "20")),
    "gpt-5.6-terra": _modern("2", "0.20", "2.50", "12"),
    "gpt-5.6-luna": _modern("0.20", "0.02", "0.25", "1.20"),
    "gpt-6-astra": _modern("10", "1", "12.50", "50", ultrafast=True),
    "gpt-6-sol": _modern("2", "0.20", "2.50", "10"),
    "gpt-6-luna": _modern("0.10", "0.01", "0.125", "0.50"),
    "gpt-6.1-sol": _modern("2", "0.10", "2.50", "10", ultrafast=True),
    "gpt-6.1-terra": _modern("1", "0.05", "1.25", "5"),
    "o1": Price(_text("15", "7.50", "60")),
    "o1-pro": Price(_text("150", None, "600")),
    "o3": Price(_text("2", "0.50", "8"), {"flex": _text("1", "0.25", "4"), "priority": _text("3.5", "0.875", "14")}),
    "o3-pro": Price(_text("20", None, "80")),
    "o3-mini": Price(_text("1.10", "0.55", "4.40")),
    "o4-mini": Price(_text("1.10", "0.275", "4.40"), {"flex": _text("0.55", "0.138", "2.2"), "priority": _text("2", "0.5", "8")}),
    "o3-deep-research": Price(_text("10", "2.50", "40")),
    "o4-mini-deep-research": Price(_text("2", "0.50", "8")),
    "gpt-4o-search-preview": Price(_text("2.50", None, "10")),
    "gpt-5-search-api": Price(_text("1.25", "0.125", "10")),
    "computer-use-preview": Price(_text("3", None, "12")),
    "gpt-3.5-turbo": Price(_text("0.50", None, "1.50")),
    "ft:gpt-4o-2024-08-06": Price(_text("3.75", "1.875", "15")),
    "ft:gpt-4.1-2025-04-14": Price(_text("3", "0.75", "12")),
}

COMPLETION_PRICES: dict[str, Price] = {
    "gpt-3.5-turbo-instruct": Price(_text("1.50", None, "2")),
    "davinci-002": Price(_text("2", None, "2")),
    "babbage-002": Price(_text("0.40", None, "0.40")),
}

AUDIO_PRICES: dict[str, Price] = {
    **dict.fromkeys(("gpt-audio", "gpt-audio-1.5"), _sound(("2.50", None, "10"), ("32", None, "64"))),
    "gpt-audio-mini": _sound(("0.60", None, "2.40"), ("10", None, "20")),
    "gpt-4o-audio-preview": _sound(("2.50", None, "10"), ("40", None, "80")),
    "gpt-4o-mini-audio-preview": _sound(("0.15", None, "0.60"), ("10", None, "20")),
}

REALTIME_PRICES: dict[str, Price] = {
    "gpt-4o-realtime-preview": _sound(("5", "2.50", "20"), ("40", "2.50", "80")),
    "gpt-4o-mini-realtime-preview": _sound(("0.60", "0.30", "2.40"), ("10", "0.30", "20")),
    **dict.fromkeys(("gpt-realtime", "gpt-realtime-1.5"), _sound(("4", "0.40", "16"), ("32", "0.40", "64"), image=("5", "0.50"))),
    **dict.fromkeys(("gpt-realtime-2", "gpt-realtime-2.1"), _sound(("4", "0.40", "24"), ("32", "0.40", "64"), image=("5", "0.50"))),
    **dict.fromkeys(
        ("gpt-realtime-mini", "gpt-realtime-2.1-mini"),
        _sound(("0.60", "0.06", "2.40"), ("10", "0.30", "20"), image=("0.80", "0.08")),
    ),
}

EMBEDDING_PRICES: dict[str, Price] = {
    "text-embedding-3-small": Price(_rates(input_text="0.02")),
    "text-embedding-3-large": Price(_rates(input_text="0.13")),
    "text-embedding-ada-002": Price(_rates(input_text="0.10")),
}

TRANSCRIPTION_PRICES: dict[str, Price] = {
    **dict.fromkeys(
        ("gpt-4o-transcribe", "gpt-4o-transcribe-diarize"),
        Price(_rates(input_audio="2.50", input_text="2.50", output_text="10")),
    ),
    "gpt-4o-mini-transcribe": Price(_rates(input_audio="1.25", input_text="1.25", output_text="5")),
    "gpt-transcribe": Price(usd_per_minute=Decimal("0.0045")),
    "whisper-1": Price(usd_per_minute=Decimal("0.006")),
}

IMAGE_PRICES: dict[str, Price] = {
    "gpt-image-1": _pictures(("5", "1.25"), ("10", "2.50"), "40"),
    "gpt-image-1-mini": _pictures(("2", "0.20"), ("2.50", "0.25"), "8"),
    **dict.fromkeys(("gpt-image-1.5", "chatgpt-image-latest"), _pictures(("5", "1.25"), ("8", "2"), "32", text_out="10")),
    **dict.fromkeys(("gpt-image-2", "gpt-image-2.5-sunburst", "gpt-image-2.5-flare"), _pictures(("5", "1.25"), ("8", "2"), "30")),
}

PRICES: dict[str, Price] = {
    **TEXT_PRICES, **COMPLETION_PRICES, **AUDIO_PRICES, **REALTIME_PRICES,
    **EMBEDDING_PRICES, **TRANSCRIPTION_PRICES, **IMAGE_PRICES,
}  # fmt: skip

SNAPSHOTS: dict[str, str] = {
    "gpt-4o-2024-08-06": "gpt-4o", "gpt-4o-2024-11-20": "gpt-4o", "gpt-4o-mini-2024-07-18": "gpt-4o-mini",
    "gpt-4.1-2025-04-14": "gpt-4.1", "gpt-4.1-mini-2025-04-14": "gpt-4.1-mini", "gpt-4.1-nano-2025-04-14": "gpt-4.1-nano",
    "gpt-5-2025-08-07": "gpt-5", "gpt-5-mini-2025-08-07": "gpt-5-mini", "gpt-5-nano-2025-08-07": "gpt-5-nano",
    "gpt-5.1-2025-11-13": "gpt-5.1", "gpt-5.2-2025-12-11": "gpt-5.2", "gpt-5.4-mini-2026-03-17": "gpt-5.4-mini",
    "gpt-5.4-nano-2026-03-17": "gpt-5.4-nano", "gpt-5.5-2026-04-23": "gpt-5.5", "gpt-5.5-pro-2026-04-23": "gpt-5.5-pro",
    "o1-2024-12-17": "o1", "o3-2025-04-16": "o3", "o3-mini-2025-01-31": "o3-mini", "o4-mini-2025-04-16": "o4-mini",
    "gpt-audio-mini-2025-12-15": "gpt-audio-mini",
    "gpt-4o-realtime-preview-2025-06-03": "gpt-4o-realtime-preview",
    "gpt-4o-realtime-preview-2024-12-17": "gpt-4o-realtime-preview",
    "gpt-4o-realtime-preview-2024-10-01": "gpt-4o-realtime-preview",  # the model card shows one table for all its snapshots
    "gpt-4o-mini-realtime-preview-2024-12-17": "gpt-4o-mini-realtime-preview",
    "gpt-realtime-2025-08-28": "gpt-realtime", "gpt-realtime-mini-2025-12-15": "gpt-realtime-mini",
}  # fmt: skip
"""Dated names, as the reference and the SDK's own list of models have them, and the row that prices each."""


def row_of(model: str) -> str | None:
    """The name of the row that prices this model. None: the table has no such model."""
    if model.startswith("ft:"):
        model = ":".join(model.split(":")[:2])
    row = SNAPSHOTS.get(model, model)
    return row if row in PRICES else None


def is_reasoning(row: str) -> bool:
    """Whether answers of this row's models hold hidden reasoning tokens."""
    return row.startswith(REASONING_FAMILIES) and row not in NOT_REASONING


def has_tier(model: str, service_tier: str) -> bool:
    """Whether the model has prices of its own for this tier; the standard tiers always have."""
    row = row_of(model)
    return row is not None and (service_tier in STANDARD_TIERS or service_tier in PRICES[row].tiers)


def meters_of(model: str) -> frozenset[Meter]:
    """The token meters that have a standard price."""
    row = row_of(model)
    return frozenset(PRICES[row].standard) if row else frozenset()


def cost_picousd(model: str, service_tier: str, quantities: Mapping[Meter, int]) -> int | None:
    """What these disjoint quantities cost, exact, rounded up once if not whole. None: something in them has no price."""
    row = row_of(model)
    if row is None or not has_tier(model, service_tier):
        return None
    price = PRICES[row]
    rates = price.tiers.get(service_tier, price.standard)
    if price.long_context and sum(quantities.get(meter, 0) for meter in INPUT_METERS) > LONG_CONTEXT_TOKENS:
        rates = {meter: usd * (2 if meter in INPUT_METERS else Decimal("1.5")) for meter, usd in rates.items()}
    with localcontext(EXACT):
        total_usd = Decimal(0)
        for meter, quantity in quantities.items():
            usd = _usd(row, price, rates, meter, quantity)
            if usd is None:
                return None
            total_usd += usd
        return int((total_usd * PICOUSD_PER_USD).to_integral_value(ROUND_CEILING))


def _usd(row: str, price: Price, rates: Rates, meter: Meter, quantity: int) -> Decimal | None:
    if not quantity:
        return Decimal(0)
    if meter is Meter.WEB_SEARCH_PREVIEW_CALLS and is_reasoning(row):
        return quantity * PREVIEW_SEARCH_USD_WHERE_REASONING
    if meter in USD_EACH:
        return quantity * USD_EACH[meter]
    if meter is Meter.DURATION_IN_MS:
        return None if price.usd_per_minute is None else quantity * price.usd_per_minute / 60_000
    return quantity * rates[meter] / 1_000_000 if meter in rates else None
