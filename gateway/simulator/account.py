"""The simulator's own account of what it served, and a ledger held against it.

One JSON line a request, appended and written to the file before the last bytes of the answer are sent, so the account never
lacks what a client has seen. Reads plain dicts as `gateway entries --json` prints them: it knows nothing of the ledger.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from gateway.units import Meter

LineKind = Literal["billed", "free", "refused"]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One request that was answered, or was to be."""

    kind: LineKind  # free: has no price (lists, polls, counting); refused: answered with an error, or never
    request_id: str  # as in x-request-id
    client_request_id: str | None  # X-Client-Request-Id as received: the gateway's exchange id
    method: str
    path: str  # with /v1
    model: str | None  # as served
    service_tier: str | None  # as served
    quantities: dict[Meter, int]  # disjoint; a meter that is not there was not used
    details: dict[str, int]
    cost_picousd: int | None  # None: the simulator was told to answer under a name or tier that has no price
    status: int | None  # None: the connection was closed or left without a head
    streamed: bool
    complete: bool  # the whole answer was generated and handed to the socket
    answer_id: str | None
    started_at_us: int  # unix time
    ended_at_us: int


class Unpriced(ValueError):
    """A total was asked for and a line has no price."""


class AccountWriter:
    """Appends lines to one file. Each is in the page cache when `append` returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._encoder = msgspec.json.Encoder()

    def append(self, line: Line) -> None:
        """Write one line. OSError: it could not be written whole, and the answer must not go."""
        data = self._encoder.encode(line) + b"\n"
        if os.write(self._file, data) != len(data):
            raise OSError("the account was written in part: the disk is full")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_account(path: Path | str) -> list[Line]:
    """Every line in the order written. ValueError with the line's number: it is not a line of an account."""
    decoder, lines = msgspec.json.Decoder(Line), []
    with Path(path).open("rb") as file:
        for number, text in enumerate(file, start=1):
            try:
                lines.append(decoder.decode(text))
            except msgspec.DecodeError as wrong:
                raise ValueError(f"{path}:{number}: {wrong}") from wrong
    return lines


def total_picousd(account: Iterable[Line]) -> int:
    """What all of it costs. Unpriced: a line has no price, and a sum without it would be too small."""
    total = 0
    for line in account:
        if line.cost_picousd is None:
            raise Unpriced(f"{line.request_id}: {line.model} at {line.service_tier} has no price")
        total += line.cost_picousd
    return total


@dataclass(frozen=True, slots=True)
class Difference:
    """Where ledger and account disagree."""

    kind: Literal["missing", "extra", "twice", "differing"]
    exchange_id: str | None
    request_id: str | None
    what: str  # "entry", "cost_picousd", or a meter
    served: int | None  # what the account says
    booked: int | None  # what the ledger says


def compare(ledger_entries: Iterable[Mapping[str, Any]], account: Iterable[Line]) -> list[Difference]:
    """Hold entries of the ledger (plain dicts, the effective ones) against the account, joined by exchange id.

    missing: billed and not in the ledger. extra: reported in the ledger and never served. twice: two entries of one exchange.
    differing: a quantity or the cost of an entry whose usage was reported, or an entry that says a billed exchange was
    not billed. Estimated and unknown entries are in the ledger, and that is all that is asked of them.
    """
    entries: dict[str, Mapping[str, Any]] = {}
    found: list[Difference] = []
    for entry in ledger_entries:
        exchange_id = str(entry["exchange_id"])
        if exchange_id in entries:
            found.append(Difference("twice", exchange_id, entry.get("upstream_request_id"), "entry", 1, 2))
        entries[exchange_id] = entry
    served: defaultdict[str, list[Line]] = defaultdict(list)
    nobodys: list[Line] = []
    for line in account:
        if line.client_request_id is not None:
            served[line.client_request_id].append(line)
        elif line.kind == "billed":
            nobodys.append(line)
    found += [Difference("missing", None, line.request_id, "entry", line.cost_picousd, None) for line in nobodys]
    for exchange_id, lines in served.items():
        found += _compare_one(exchange_id, entries.pop(exchange_id, None), lines)
    found += [
        Difference("extra", exchange_id, entry.get("upstream_request_id"), "entry", None, entry["cost_picousd"])
        for exchange_id, entry in entries.items()
        if entry["usage_source"] == "reported"
    ]
    return found


def _compare_one(exchange_id: str, entry: Mapping[str, Any] | None, lines: list[Line]) -> Iterable[Difference]:
    """One exchange. Lines that are not billed need no entry; an entry there must not have cost anything."""
    request_id = lines[-1].request_id
    costs = [line.cost_picousd for line in lines]
    cost_picousd = None if None in costs else sum(cost for cost in costs if cost is not None)
    billed = any(line.kind == "billed" for line in lines)
    if entry is None:
        if billed:
            yield Difference("missing", exchange_id, request_id, "entry", cost_picousd, None)
        return
    if entry["usage_source"] == "not_billed":
        if billed:
            yield Difference("differing", exchange_id, request_id, "cost_picousd", cost_picousd, entry["cost_picousd"])
        return
    if entry["usage_source"] != "reported":
        return
    quantities: defaultdict[str, int] = defaultdict(int)
    for line in lines:
        for meter, quantity in line.quantities.items():
            quantities[meter.value] += quantity
    booked = {str(meter): quantity for meter, quantity in entry["usage"].items()}
    for meter_name in sorted(quantities.keys() | booked.keys()):
        if quantities.get(meter_name, 0) != booked.get(meter_name, 0):
            yield Difference("differing", exchange_id, request_id, meter_name, quantities.get(meter_name, 0), booked.get(meter_name, 0))
    if entry["cost_picousd"] != cost_picousd:
        yield Difference("differing", exchange_id, request_id, "cost_picousd", cost_picousd, entry["cost_picousd"])
