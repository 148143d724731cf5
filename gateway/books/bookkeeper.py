"""Journals into the ledger, and what follows from what became effective. Slow things, all in one thread that is nobody else's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from gateway.books.learned import Learned
from gateway.config.snapshot import Facts
from gateway.journal.format import Position
from gateway.journal.reader import Batch, Gap, JournalReader, delete_covered
from gateway.journal.records import Closed, Entry, Record
from gateway.late.background import CORRECTED, revised
from gateway.late.orphans import orphans
from gateway.ledger import Event, Folded, Ledger
from gateway.metrics import EntryMetrics, Families

LATE_EVENT = "late_usage"
LATE_WAITING_MAX = 1_000  # answers whose making call is not in the ledger yet
LATE_KEPT_US = 7 * 86_400 * 1_000_000  # how long after a crash late usage is looked for again
LEARN_FROM_ENTRIES = 5_000  # of the ledger, at the start

_log = structlog.get_logger("gateway.books")


class Turn(msgspec.Struct, frozen=True):
    """What one turn on one journal gave."""

    records: int
    caught_up: bool  # there was nothing more
    newest_at_us: int  # when the last record was written, about; 0: unknown


@dataclass
class _Journal:
    """One worker's journal as it is followed."""

    reader: JournalReader
    committed: Position | None
    pending: Batch | None = None  # read and not folded yet: the ledger was away
    failed: bool = False  # the pending batch was refused before
    closed_boots: set[int] = field(default_factory=set)
    gaps_told: frozenset[Gap] = frozenset()  # of the last batch that had any
    cleaned: tuple[int, int] | None = None  # boot and segment up to which covered segments are deleted


class Bookkeeper:
    """Folds what workers wrote. Every method belongs to one thread, except that anyone may set `facts` and read the counts."""

    def __init__(
        self,
        folder: Path,
        open_ledger: Callable[[], Ledger],
        facts: Facts,
        metrics: EntryMetrics,
        families: Families,
        now_us: Callable[[], int],
    ) -> None:
        self.facts = facts
        self.gaps: dict[str, Gap] = {}  # by worker, the newest since the books started
        self.learned = Learned()
        self._folder, self._open_ledger, self._now_us = folder, open_ledger, now_us
        self._metrics, self._families = metrics, families
        self._ledger: Ledger | None = None
        self._journals: dict[str, _Journal] = {}
        self._late: dict[str, Entry] = {}  # by answer id: seen, and its making call is not in the ledger yet
        self._late_due: dict[str, str] = {}  # of these, the exchange that made the answer, once it has come

    def prepare(self) -> None:
        """Open the ledger, if it is not open. LedgerError when it cannot be had now."""
        self._opened()

    def turn(self, worker: str) -> Turn:
        """Read and fold the next batch of a worker's journal. LedgerError or OSError: nothing was lost, turn again later."""
        ledger = self._opened()
        journal = self._journals.get(worker)
        if journal is None:
            committed = ledger.watermark(worker)
            journal = self._journals[worker] = _Journal(JournalReader(self._folder, worker, committed), committed)
        if journal.pending is None:
            journal.pending = journal.reader.read()
        batch = journal.pending
        try:
            self._tell_gaps(ledger, journal, batch)
            self._fold(ledger, journal, batch)
            self._close_boot(ledger, journal, batch)
            self._supersede_due(ledger)
        except BaseException:
            if not journal.failed:
                self._families.ledger_records.child("failed").inc(len(batch.records))
            journal.failed = True
            raise
        journal.pending, journal.failed = None, False
        self._clean(journal, worker)
        return Turn(len(batch.records), batch.caught_up, _newest_at_us(batch.records))

    def close(self) -> None:
        """Close files and ledger."""
        for journal in self._journals.values():
            journal.reader.close()
        if self._ledger is not None:
            self._ledger.close()

    # -- the ledger -------------------------------------------------------------------------------------------------------

    def _opened(self) -> Ledger:
        if self._ledger is None:
            ledger = self._open_ledger()
            try:
                self._recall(ledger)
            except BaseException:
                ledger.close()
                raise
            self._ledger = ledger
        return self._ledger

    def _recall(self, ledger: Ledger) -> None:
        """What was in memory before the last stop: late usage that waits, and what calls were seen to use."""
        for event in ledger.events(LATE_EVENT, self._now_us() - LATE_KEPT_US, LATE_WAITING_MAX):
            seen = msgspec.json.decode(str(event.facts["entry"]), type=Entry)
            self._supersede_or_wait(ledger, seen)
        if self._late:  # the making call may be there under the id of a call that only fetched its answer
            for source in sorted(CORRECTED):
                for shown in ledger.entries({"usage_source": source}, self._now_us() - LATE_KEPT_US):
                    if shown["answer_id"] in self._late:
                        self._late_due[shown["answer_id"]] = shown["exchange_id"]
        for shown in ledger.entries(limit=LEARN_FROM_ENTRIES):
            self.learned.learn(_learnable(shown), self.facts)

    def _fold(self, ledger: Ledger, journal: _Journal, batch: Batch) -> None:
        position = batch.position
        if position is None or (not batch.records and position == journal.committed):
            return
        self._note_late(ledger, batch.records)
        self._effective(ledger.fold(batch.worker, position, batch.records))
        journal.committed = position

    def _close_boot(self, ledger: Ledger, journal: _Journal, batch: Batch) -> None:
        """A boot that was read to its end leaves intents behind whose exchanges nobody saw end."""
        ended = batch.ended
        if ended is None or ended.boot in journal.closed_boots:
            return
        intents = [found.intent for found in ledger.open_intents(batch.worker, ended.boot)]
        if intents:
            _log.warning("orphaned_intents", worker=batch.worker, boot=ended.boot, count=len(intents), clean=ended.clean)
            folded = ledger.fold_orphans(batch.worker, orphans(intents, self._now_us()))
            self._families.orphans.child().inc(len(folded.new))
            self._effective(folded)
        journal.closed_boots.add(ended.boot)

    def _clean(self, journal: _Journal, worker: str) -> None:
        """Delete what the ledger holds: segments before the committed position, whose open intents it has copied."""
        position = journal.committed
        if position is None or journal.cleaned == (position.boot, position.segment):
            return
        journal.cleaned = (position.boot, position.segment)
        try:
            delete_covered(self._folder, worker, position)
        except OSError as error:  # they are tried again with the next segment; until then they only take room
            _log.error("segments_not_deleted", worker=worker, error=str(error))

    # -- what follows -----------------------------------------------------------------------------------------------------

    def _effective(self, folded: Folded) -> None:
        """Metrics and estimates from what counts now and did not before."""
        records, facts = self._families.ledger_records, self.facts
        self._metrics.observe(folded.new)
        for entry in folded.new:
            self.learned.learn(entry, facts)
            if entry.answer_id in self._late and entry.usage_source != "not_billed":
                self._late_due[entry.answer_id] = entry.exchange_id
        for change in folded.superseding:
            self._metrics.correct(change.new, change.old)
        records.child("written").inc(len(folded.new) + len(folded.superseding))
        if folded.duplicates:
            records.child("duplicate").inc(folded.duplicates)
            _log.error("duplicate_entries", count=folded.duplicates)
        if folded.out_of_range:
            _log.error("entries_out_of_range", count=folded.out_of_range)

    def _note_late(self, ledger: Ledger, records: Sequence[Record]) -> None:
        """Before the batch counts: usage that its answers show of earlier exchanges. A crash between the two loses nothing.

        Where the making call is not in the ledger, an event keeps what was seen until it is.
        """
        made = {
            record.answer_id: record.usage_source
            for record in records
            if isinstance(record, Entry) and record.answer_id and record.usage_source != "not_billed"
        }
        for record in records:
            if not isinstance(record, Entry) or record.late_usage is None or record.answer_id is None:
                continue
            if made.get(record.answer_id, "unknown") in CORRECTED and self._supersede_or_wait(ledger, record):
                text = msgspec.json.encode(record).decode()
                ledger.add_events([Event(LATE_EVENT, record.answer_id, record.ended_at_us, {"entry": text})])

    def _supersede_or_wait(self, ledger: Ledger, seen: Entry) -> bool:
        """Correct the entry that made this answer. True: there is none yet, and it is waited for."""
        assert seen.answer_id is not None
        original = ledger.by_answer_id(seen.answer_id)
        if original is None or original.usage_source == "not_billed":  # the first to name an answer may only have fetched it
            if len(self._late) >= LATE_WAITING_MAX:
                dropped = next(iter(self._late))
                del self._late[dropped]
                self._late_due.pop(dropped, None)
                _log.warning("late_usage_dropped", answer_id=dropped)
            self._late[seen.answer_id] = seen
            return True
        self._supersede(ledger, original, seen)
        return False

    def _supersede_due(self, ledger: Ledger) -> None:
        for answer_id, exchange_id in tuple(self._late_due.items()):
            original = ledger.effective(exchange_id)
            if original is not None:
                self._supersede(ledger, original, self._late[answer_id])
            del self._late[answer_id], self._late_due[answer_id]

    def _supersede(self, ledger: Ledger, original: Entry, seen: Entry) -> None:
        correction = revised(original, seen, self.facts)
        if correction is not None:
            self._effective(ledger.supersede(correction))
            self._families.late_usage.child().inc()

    def _tell_gaps(self, ledger: Ledger, journal: _Journal, batch: Batch) -> None:
        """Records that are lost: an alarm in the log, a metric, an event, and a line of /readyz."""
        untold = [gap for gap in batch.gaps if gap not in journal.gaps_told]  # what went back says so at each read
        if not untold:
            return
        ledger.add_events([_gap_event(gap, self._now_us()) for gap in untold])
        journal.gaps_told = frozenset(batch.gaps)
        for gap in untold:
            self.gaps[gap.worker] = gap
            self._families.journal_gaps.child(gap.worker).inc()
            _log.error("journal_gap", **msgspec.structs.asdict(gap))


def _newest_at_us(records: Sequence[Record]) -> int:
    for record in reversed(records):
        if not isinstance(record, Closed):
            return record.ended_at_us if isinstance(record, Entry) else record.admitted_at_us
    return 0


def _gap_event(gap: Gap, at_us: int) -> Event:
    facts: dict[str, str | int] = {"worker": gap.worker, "reason": gap.reason}
    if gap.missing is not None:
        facts["missing"] = gap.missing
    return Event("journal_gap", f"{gap.worker}/{gap.boot}-{gap.segment}@{gap.offset}", at_us, facts)


def _learnable(shown: dict[str, object]) -> Entry:
    """As much of an entry as learning needs, of what the ledger shows of it."""
    values = {**shown, "admitted_at_us": 0, "ended_at_us": 0, "ask_tokens": None}
    fields = Entry.__struct_fields__
    return msgspec.convert(["e", *(values.get(name) for name in fields[: fields.index("streamed")]), False, None, 0, shown["marks"]], Entry)
