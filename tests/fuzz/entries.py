"""From what was seen of an answer to the ledger: prices, entries, late usage, and books that fold whatever records say."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import msgspec
from structlog.testing import capture_logs

from gateway.books.bookkeeper import Bookkeeper
from gateway.closing import cost_served
from gateway.config.snapshot import Facts
from gateway.journal.fit import billable, fit_entry, in_range
from gateway.journal.format import ENTRY_BYTES_MAX, HEADER_BYTES, SegmentName
from gateway.journal.records import Entry, Intent
from gateway.late.background import revised
from gateway.ledger.rows import content_of, entry_of
from gateway.ledger.sqlite import SqliteLedger
from gateway.metering.answers import Observed, Reader, read_chat_answer, read_response_answer
from gateway.metrics import EntryMetrics, Families
from gateway.units import Meter, Usage

from .configuration import example
from .journals import BOOT, READS_MAX, fast_folder, framed, segment_seeds
from .reports import check_usage_values
from .target import CASES, Seeds, control

AT_US = 1_790_000_000_000_000
_ASK: Usage = {Meter.INPUT_TEXT: 400, Meter.OUTPUT_TEXT: 1_000}
_READERS: tuple[Reader, ...] = (read_chat_answer, read_response_answer)


@cache
def _facts() -> Facts:
    return Facts(example().loaded.snapshot(1))


def check_entry(data: bytes) -> None:
    """Whatever an answer says, it is priced or unpriced, its entry fits its room and reads back, and corrects another at most once."""
    flags, _, answer = control(data)
    seen = _READERS[flags % len(_READERS)](answer)
    entry = _entry_of(seen, answer, unknown=bool(flags & 2))
    assert entry.cost_picousd is None or entry.cost_picousd >= 0
    fitted = fit_entry(entry)
    payload = msgspec.msgpack.encode(fitted)
    assert HEADER_BYTES + len(payload) <= ENTRY_BYTES_MAX, "an entry does not fit its room"
    assert msgspec.msgpack.decode(payload, type=Entry) == fitted, "an entry does not read back"
    assert in_range(fitted), "an entry that was made to fit cannot be summed"
    assert not billable(entry) or (fitted.usage, fitted.cost_picousd) == (entry.usage, entry.cost_picousd), "a bill was changed"
    kept = entry_of(content_of(fitted))
    assert content_of(kept) == content_of(fitted), "a row does not read back"
    _check_late(seen, fitted)


def _entry_of(seen: Observed, answer: bytes, *, unknown: bool) -> Entry:
    facts = _facts()
    usage, source = (_ASK, "unknown") if unknown or seen.usage is None else (seen.usage, "reported")
    account = next(iter(facts.accounts.values()))
    team = facts.snapshot.teams[0]
    cost, version = cost_served(facts, team, account, seen.model_served, seen.service_tier, usage, AT_US)
    text = answer[-300:].decode("utf-8", "replace")
    return Entry(
        "gx-1", None, team.name, "k1", account.name, "responses", text, seen.model_served, seen.service_tier, usage, seen.details,
        source, cost, version, 200, seen.error_code or seen.lost, text, text, AT_US, AT_US + 1, {}, None, "ok", 1_400,
        answer_id=seen.answer_id, late_usage=seen.usage,
    )  # fmt: skip


def _check_late(seen: Observed, entry: Entry) -> None:
    """A later answer corrects what was not reported, with what it says and the price of that; what was reported stays."""
    original = msgspec.structs.replace(entry, usage=_ASK, usage_source="unknown", late_usage=None)
    correction = revised(original, msgspec.structs.replace(entry, late_usage=seen.usage), _facts())
    assert (correction is None) == (seen.usage is None)
    if correction is not None:
        check_usage_values(correction.usage)
        assert (correction.usage, correction.usage_source) == (seen.usage, "reported")
        assert revised(correction, msgspec.structs.replace(entry, late_usage=seen.usage), _facts()) is None, "corrected twice"


def entry_seeds() -> Seeds:
    """Recorded answers, with models and tiers that have a price and that have none."""
    seeds = {}
    for path in CASES.glob("*.json"):
        answer = path.read_bytes()
        for number, read in enumerate(_READERS):
            seeds[f"{path.stem}, {read.__name__}"] = bytes([number, 0]) + answer
        seeds[f"{path.stem}, late"] = bytes([3, 0]) + answer.replace(b'"model"', b'"model":"gpt-4o-2024-08-06","mod"')
    huge = b'{"id":"a","model":"gpt-4o-2024-08-06","usage":{"prompt_tokens":9007199254740992,"completion_tokens":0}}'
    return seeds | {"huge": b"\0\0" + huge, "long texts": b"\0\0" + huge.replace(b"gpt-4o-2024-08-06", b"\\u00e9" * 300)}


# Books

JOURNALS_MAX = 5  # that one set of books reads, which is much faster than new ones each time; and duplicates are met too


class _Books:
    """A bookkeeper with its ledger in a folder of its own."""

    def __init__(self) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="fuzz-books-", dir=fast_folder())
        self.folder, self.journals = Path(self._place.name), 0
        families = Families(1_000)
        metrics = EntryMetrics(families, 1_000)
        metrics.configure(_facts().snapshot)
        self.ledger = SqliteLedger(self.folder / "ledger.db")
        self.keeper = Bookkeeper(self.folder, lambda: self.ledger, _facts(), metrics, families, lambda: AT_US)

    def close(self) -> None:
        self.keeper.close()
        self._place.cleanup()


_open: list[_Books] = []


def _books() -> _Books:
    if _open and _open[-1].journals >= JOURNALS_MAX:
        _open.pop().close()
    if not _open:
        _open.append(_Books())
    _open[-1].journals += 1
    return _open[-1]


def check_books(data: bytes) -> None:
    """Whole records that say anything (of a newer worker, of a broken one) never stop the books, and rollups stay the sum of entries.

    The bytes are payloads as in the target `segments`.
    """
    _, how, payloads = control(data)
    books = _books()
    worker = f"w{books.journals}"
    (books.folder / worker).mkdir()
    (books.folder / worker / SegmentName(BOOT, 1).file_name).write_bytes(framed(payloads, how))
    with capture_logs():  # gaps and duplicates are told: that is as it should be
        for _ in range(READS_MAX):
            if books.keeper.turn(worker).caught_up:
                break
        else:
            raise AssertionError("the books do not come to an end")
    counted = books.ledger.recount()
    assert not counted.differences, f"rollups are not the sum of the entries: {counted}"


def books_seeds() -> Seeds:
    """Records as workers write them, and with numbers and texts that nobody writes."""
    seeds = {name: seed for name, seed in segment_seeds().items() if seed[0] == 1}
    base = _entry_of(Observed(usage=_ASK), b"", unknown=False)
    odd = {
        "negative": {"usage": {Meter.INPUT_TEXT: -5}, "cost_picousd": -7},
        "huge": {"usage": {Meter.INPUT_TEXT: 2**63 - 1}, "cost_picousd": 2**63 - 1},
        "long ago": {"admitted_at_us": -(2**62), "ended_at_us": 0}, "far away": {"admitted_at_us": 2**62, "ended_at_us": 2**62},
        "times": {"timings_us": {"sent": -1, "last": 2**63 - 1, "": 5}}, "NUL": {"team": "a\0b", "model_served": "\0", "outcome": "x\n"},
        "empty": {"exchange_id": "", "team": "", "key": ""}, "details": {"details": {"total_tokens": -(2**63)}}, "status": {"status": -1},
        "retries": {"retry_count": 2**63 - 1, "ask_tokens": -(2**63), "body_bytes": -1},
        "late": {"late_usage": {Meter.OUTPUT_TEXT: -1}, "answer_id": "a"},
    }  # fmt: skip
    for name, changes in odd.items():
        entry = msgspec.msgpack.encode(msgspec.structs.replace(base, **changes))
        intent = Intent(
            "gx-1",
            None,
            "voice",
            "k1",
            "openai",
            "chat",
            None,
            None,
            {Meter.INPUT_TEXT: -1},
            -5,
            None,
            None,
            -1,
            changes.get("admitted_at_us", -1),
        )
        both = [msgspec.msgpack.encode(intent), entry, msgspec.msgpack.encode(msgspec.structs.replace(base, exchange_id="gx-2"))]
        seeds[name] = bytes([1, 0]) + b"".join(len(payload).to_bytes(2, "big") + payload for payload in both)
    return seeds
