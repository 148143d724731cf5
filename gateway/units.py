"""Quantities and ids that every room speaks. Pure.

Money is an integer of pico-dollars (1 USD = 10**12), time an integer of the unit in its name, usage a quantity for each
disjoint meter. Nothing here knows what a model or a team is.
"""

from __future__ import annotations

import secrets
from enum import StrEnum
from typing import Literal

import msgspec

PICOUSD_PER_USD = 10**12
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US


class Meter(StrEnum):
    """A dimension that is billed. Disjoint: what is counted in one is counted in no other.

    Tokens unless the name says otherwise. Reasoning and prediction tokens are inside output and kept as details.
    """

    INPUT_TEXT = "input_text"
    INPUT_AUDIO = "input_audio"
    INPUT_IMAGE = "input_image"
    CACHED_TEXT = "cached_text"
    CACHED_AUDIO = "cached_audio"
    CACHED_IMAGE = "cached_image"
    CACHE_WRITE_TEXT = "cache_write_text"  # kept for 30 minutes
    CACHE_WRITE_12H_TEXT = "cache_write_12h_text"
    OUTPUT_TEXT = "output_text"
    OUTPUT_AUDIO = "output_audio"
    OUTPUT_IMAGE = "output_image"
    DURATION_IN_MS = "duration_in_ms"
    DURATION_OUT_MS = "duration_out_ms"
    CHARACTERS = "characters"
    IMAGES = "images"
    WEB_SEARCH_CALLS = "web_search_calls"
    WEB_SEARCH_PREVIEW_CALLS = "web_search_preview_calls"
    FILE_SEARCH_CALLS = "file_search_calls"
    CONTAINER_SESSIONS = "container_sessions"  # of 1 GB, for 20 minutes; larger ones have their own meters
    CONTAINER_4G_SESSIONS = "container_4g_sessions"
    CONTAINER_16G_SESSIONS = "container_16g_sessions"
    CONTAINER_64G_SESSIONS = "container_64g_sessions"

    __hash__ = str.__hash__  # Enum's own hash is a Python function; meters are looked up on every call


INPUT_METERS = (
    Meter.INPUT_TEXT, Meter.INPUT_AUDIO, Meter.INPUT_IMAGE,
    Meter.CACHED_TEXT, Meter.CACHED_AUDIO, Meter.CACHED_IMAGE,
    Meter.CACHE_WRITE_TEXT, Meter.CACHE_WRITE_12H_TEXT,
)  # fmt: skip
OUTPUT_METERS = (Meter.OUTPUT_TEXT, Meter.OUTPUT_AUDIO, Meter.OUTPUT_IMAGE)
TOKEN_METERS = INPUT_METERS + OUTPUT_METERS
_TOKENS = frozenset(TOKEN_METERS)

Usage = dict[Meter, int]
"""Quantity for each disjoint meter. A meter that was reported as 0 may be left out; what is unknown is never 0."""

UsageSource = Literal["reported", "estimated", "unknown", "not_billed"]


def tokens_of(usage: Usage) -> int:
    """Every token of this usage, input and output: what a tokens-per-minute limit counts."""
    return sum([quantity for meter, quantity in usage.items() if meter in _TOKENS])


class Limits(msgspec.Struct, frozen=True):
    """Requests per minute, requests per day, tokens per minute. None: no limit of that kind, which is not zero."""

    rpm: int | None = None
    rpd: int | None = None
    tpm: int | None = None


def usd_text(picousd: int) -> str:
    """Exact and plain, at least two digits behind the point: 38_120_000_000 -> "0.03812", 0 -> "0.00"."""
    sign, picousd = ("-", -picousd) if picousd < 0 else ("", picousd)
    whole, rest = divmod(picousd, PICOUSD_PER_USD)
    return f"{sign}{whole}.{f'{rest:012d}'.rstrip('0').ljust(2, '0')}"


def duration_text(duration_us: int) -> str:
    """A duration as Go prints it and as `x-ratelimit-reset-*` carries it: "0s", "6ms", "8.64s", "7m12s", "1h0m0s".

    Source: reference/limits-and-errors.md section 3 (headers and 429 messages observed).
    """
    if duration_us <= 0:
        return "0s"
    if duration_us < 1000:
        return f"{duration_us}µs"
    if duration_us < 1_000_000:
        return f"{_decimals(duration_us, 1000)}ms"
    minutes, seconds_us = divmod(duration_us, 60_000_000)
    seconds = f"{_decimals(seconds_us, 1_000_000)}s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _decimals(value: int, per: int) -> str:
    whole, rest = divmod(value, per)
    if not rest:
        return str(whole)
    return f"{whole}." + f"{rest:0{len(str(per)) - 1}d}".rstrip("0")


def div_ceil(dividend: int, divisor: int) -> int:
    """Integer division rounded up, for quantities >= 0."""
    return -(-dividend // divisor)


class ExchangeIds:
    """Permanently unique ids without a system call each: boot time and 64 random bits, then a counter."""

    def __init__(self, boot_ms: int) -> None:
        self._prefix = f"gx-{boot_ms:012x}{secrets.token_hex(8)}"
        self._count = 0

    def next(self) -> str:
        """41 characters, [a-z0-9-]; sorts by boot time, then by order of making."""
        self._count += 1
        return f"{self._prefix}{self._count:010x}"
