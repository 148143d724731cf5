"""From figures to the tables of README: medians of rounds, and of ratios within a round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rows import CONNECTIONS, Figures

GATEWAY, PLAIN, LUA, DIRECT = "gateway", "nginx, plain", "nginx + Lua + Redis", "direct"
NONE = "–"  # not measured
Rounds = Mapping[str, Sequence[Figures]]  # of one row: by candidate
Found = Mapping[str, Rounds]  # by row
Take = Callable[[Figures], float]

CPU_LINES = (  # title, row
    ("call", "calls"),
    ("call, TLS upstream", "calls-tls"),
    ("call, 1 connection", "latency"),
    ("call, 128 connections", "connections-128"),
    ("call, 1,000 connections", "connections-1000"),
    ("call, 10,000 teams", "teams-10000"),
    ("chunk at a writing pace", "pace"),
    ("chunk at a writing pace, TLS upstream", "pace-tls"),
    ("chunk in bursts of 54", "bursts"),
    ("chunk in bursts of 54, TLS upstream", "bursts-tls"),
    ("chunk in bursts of 504", "long-bursts"),
)


def worker(figures: Figures) -> float:
    return figures.worker_us


def beside(figures: Figures) -> float:
    return figures.beside_us


def median(rounds: Rounds, name: str, take: Take) -> float | None:
    """Of all rounds; None: this candidate was not measured."""
    values = [take(figures) for figures in rounds.get(name, ())]
    return statistics.median(values) if values else None


def ratio(rounds: Rounds, name: str, other: str, take: Take = worker) -> float | None:
    """Median of the ratios in each round, so that what slows a whole round down says nothing."""
    pairs = [(take(a), take(b)) for a, b in zip(rounds.get(name, ()), rounds.get(other, ()), strict=False)]
    return statistics.median(a / b for a, b in pairs if b) if any(b for _, b in pairs) else None


def added(rounds: Rounds, name: str, take: Take) -> float | None:
    """Median of the differences to no proxy at all in each round."""
    pairs = zip(rounds.get(name, ()), rounds.get(DIRECT, ()), strict=False)
    values = [take(a) - take(b) for a, b in pairs]
    return statistics.median(values) if values else None


def number(value: float | None, digits: int = 1) -> str:
    return NONE if value is None else f"{value:,.{digits}f}"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def head(*cells: str) -> list[str]:
    return [line(*cells), f"|{'---|' * len(cells)}"]


def cpu_table(found: Found, names: Sequence[str]) -> list[str]:
    """CPU of the worker, with what works beside it after a plus."""

    def cell(rounds: Rounds, name: str) -> str:
        alone, more = median(rounds, name, worker), median(rounds, name, beside)
        return number(alone) + (f" + {number(more)}" if alone is not None and more else "")

    lines = head("µs of CPU: worker + beside", *names)
    for title, row in CPU_LINES:
        if row in found:
            lines.append(line(title, *(cell(found[row], name) for name in names)))
    return lines


def client_table(found: Found, memory_kib: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """What the client sees, and memory."""
    lines = head("", *names)
    for title, row, take in (
        ("calls/s, 32 connections", "calls", lambda figures: figures.per_second),
        ("calls/s, 32 connections, TLS upstream", "calls-tls", lambda figures: figures.per_second),
    ):
        if row in found:
            lines.append(line(title, *(number(median(found[row], name, take), 0) for name in names)))
    for title, row in (("added at one connection, ms, p50 / p99", "latency"), ("the same, TLS upstream", "latency-tls")):
        if row in found:
            cells = [(added(found[row], name, p50), added(found[row], name, p99)) for name in names]
            lines.append(line(title, *(f"{in_ms(a)} / {in_ms(b)}" if a is not None else NONE for a, b in cells)))
    for title, row in (("first byte of a stream delayed, ms, p50", "first-byte"), ("the same, TLS upstream", "first-byte-tls")):
        if row in found:
            lines.append(line(title, *(in_ms(added(found[row], name, first_byte)) for name in names)))
    if memory_kib:
        lines.append(line("memory of an open stream, KiB", *(number(memory_kib.get(name)) for name in names)))
    return lines


def p50(figures: Figures) -> float:
    return figures.p50_us


def p99(figures: Figures) -> float:
    return figures.p99_us


def first_byte(figures: Figures) -> float:
    return figures.first_byte_p50_us


def in_ms(us: float | None) -> str:
    return number(None if us is None else us / 1000, 3)


def target_table(found: Found, books: Mapping[str, Any] | None) -> list[str]:
    """Design section 11, for what exists."""
    lines = head("what", "target", "measured", "reached")

    def judge(what: str, target: str, value: float | None, most: float, unit: str, digits: int = 2, *, least: bool = False) -> None:
        if value is not None:
            good = value >= most if least else value <= most
            lines.append(line(what, target, f"{number(value, digits)}{unit}", "yes" if good else "**no**"))

    def of(row: str) -> Rounds:
        return found.get(row, {})

    for suffix, tls in (("", ""), ("-tls", ", TLS upstream")):
        calls, first = of(f"calls{suffix}"), added(of(f"first-byte{suffix}"), GATEWAY, first_byte)
        judge(f"CPU per call{tls}", "≤ nginx + Lua + Redis", ratio(calls, GATEWAY, LUA), 1.0, " ×")
        judge(f"CPU per call{tls}", "aim: 2 × nginx, plain", ratio(calls, GATEWAY, PLAIN), 2.0, " ×")
        for name, take, most_ms in (("p50", p50, 0.2), ("p99", p99, 1.0)):
            more = added(of(f"latency{suffix}"), GATEWAY, take)
            judge(f"added latency {name}{tls}", f"≤ {most_ms} ms", more / 1000 if more is not None else None, most_ms, " ms", 3)
        judge(f"SSE chunk at a writing pace{tls}", "≤ 1.4 × nginx, plain", ratio(of(f"pace{suffix}"), GATEWAY, PLAIN), 1.4, " ×")
        judge(f"SSE chunk in bursts of 54{tls}", "≤ 2 × nginx, plain", ratio(of(f"bursts{suffix}"), GATEWAY, PLAIN), 2.0, " ×")
        judge(f"first byte delayed{tls}", "≤ 0.4 ms", first / 1000 if first is not None else None, 0.4, " ms", 3)
    judge("SSE chunk in bursts of 504", "≤ 2 × nginx, plain", ratio(of("long-bursts"), GATEWAY, PLAIN), 2.0, " ×")
    if books:
        judge(
            f"books into SQLite ({number(books['cpu_us'])} µs of CPU an entry)",
            "≥ 20,000 entries/s",
            books["entries_per_s"],
            20_000,
            "/s",
            0,
            least=True,
        )
        title = f"a month's usage by team and model, {books['entries']:,} entries"
        judge(title, "< 100 ms (of 10,000,000)", books["month_ms"], 100, " ms", 1)
    judge("CPU per call, 10,000 teams to 10", "≤ 1.3 ×", many_teams(found), 1.3, " ×")
    judge("CPU per call, 1,000 connections to 1", "≤ 1.3 ×", growth(found, 1), 1.3, " ×")
    judge("CPU per call, 1,000 connections to 32", "≤ 1.3 ×", growth(found, 32), 1.3, " ×")
    lines.append(line("realtime relay; limits in Redis", "design section 11", "not in this version", NONE))
    return lines


def many_teams(found: Found) -> float | None:
    """The gateway's cost with 10,000 teams against 10, round by round."""
    both = {"many": found.get("teams-10000", {}).get(GATEWAY, ()), "few": found.get("calls", {}).get(GATEWAY, ())}
    return ratio(both, "many", "few")


def growth(found: Found, few: int) -> float | None:
    """The gateway's cost at 1,000 connections against few, round by round."""
    names = {connections: f"connections-{connections}" for connections in CONNECTIONS} | {1: "latency", 32: "calls"}
    both = {"many": found.get(names[1_000], {}).get(GATEWAY, ()), "few": found.get(names[few], {}).get(GATEWAY, ())}
    return ratio(both, "many", "few")
