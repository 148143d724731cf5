"""From a price as printed to an exact integer rate. Pure.

A price is a quoted decimal string for a number of units ("2.50" for a million tokens); a rate is what one unit costs, in
1/RATE_SCALE pico-dollars. Nothing is rounded on the way: a price that does not come out whole is refused.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from gateway.catalogue import RATE_SCALE
from gateway.units import PICOUSD_PER_USD

PER_MILLION = 1_000_000  # tokens, characters
PER_MINUTE_MS = 60_000
PER_THOUSAND = 1_000  # tool calls
PER_ONE = 1  # images, container sessions

PRICE_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,24})?$"
RATE_MAX = 2**63 - 1  # rates travel to the workers as MessagePack, whose integers end here; one unit may cost up to 153 USD

_PRICE = re.compile(PRICE_PATTERN, re.ASCII)


def price_text(value: object) -> str:
    """The value, if it is a price as we write them. ValueError says what is allowed instead."""
    if not isinstance(value, str):
        found = "nothing" if value is None else f"{value} without quotes"
        raise ValueError(f'a price is a quoted string of USD such as "2.50"; found {found}, which YAML does not keep exact')
    if value.startswith("-"):
        raise ValueError(f'a price is not negative; found "{value}"')
    if not _PRICE.fullmatch(value):
        raise ValueError(f'a price is digits with an optional point, such as "2.50", "0.0025" or "15"; found "{value}"')
    return value


def rate_of(usd: str, per_units: int) -> int:
    """What one unit costs, in 1/RATE_SCALE pico-dollars, when `per_units` of them cost `usd`: ("2.50", PER_MILLION) -> 150_000_000_000."""
    exact = Fraction(Decimal(usd)) * PICOUSD_PER_USD * RATE_SCALE / per_units
    if exact.denominator != 1:
        raise ValueError(f'"{usd}" USD is finer than 1/{RATE_SCALE} pico-dollar per unit; use fewer decimals')
    if exact > RATE_MAX:
        raise ValueError(f'"{usd}" USD is more than a price can be: a single unit would cost over 153 USD')
    return int(exact)


def picousd_of(usd: str) -> int:
    """An amount of money, exact: "5" -> 5_000_000_000_000."""
    exact = Fraction(Decimal(usd)) * PICOUSD_PER_USD
    if exact.denominator != 1:
        raise ValueError(f'"{usd}" USD is finer than a pico-dollar; use at most 12 decimals')
    return int(exact)
