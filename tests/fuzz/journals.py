"""Journals as the books read them: torn, damaged, and whole with anything in them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from zlib import crc32

import msgspec

from gateway.journal.format import AFTER_CRC, CRC, HEADER_BYTES, VERSION, EndMark, Position, SegmentName
from gateway.journal.reader import Batch, Gap, JournalReader
from gateway.journal.records import Closed, Entry, Intent, Record
from gateway.units import Meter

from .target import Seeds, control

BOOT = 1_790_000_000
RECORDS = 6
READS_MAX = 200  # of one small journal: each read takes records, tells of a gap, or is the last


def record(payload: bytes, boot: int, sequence: int, version: int = VERSION) -> bytes:
    """A record as it lies in a segment."""
    body = AFTER_CRC.pack(len(payload), boot, sequence, version) + payload
    return CRC.pack(crc32(body)) + body


@cache
def _written() -> tuple[tuple[bytes, Record], ...]:
    """Records of one boot in their order: intents, entries, a closed one."""
    usage = {Meter.INPUT_TEXT: 120, Meter.OUTPUT_TEXT: 80}
    records: list[Record] = []
    for number in range(RECORDS // 2):
        intent = Intent(
            f"gx-{number}", None, "voice", "k1", "openai", "chat", "gpt-4o", None, usage, 11_000, "2025", None, 0, 1_790_000_000_000_000
        )
        entry = Entry(
            f"gx-{number}", None, "voice", "k1", "openai", "chat", "gpt-4o", "gpt-4o", None, usage, {}, "reported", 1_100, "2025", 200,
            None, None, None, 1_790_000_000_000_000, 1_790_000_001_000_000, {}, 0, "ok", 1_400,
        )  # fmt: skip
        records += [intent, entry] if number else [intent, Closed("gx-0")]
    encoded = (msgspec.msgpack.encode(each) for each in records)
    return tuple((record(payload, BOOT, number), each) for number, (payload, each) in enumerate(zip(encoded, records, strict=True), 1))


def fast_folder() -> str | None:
    """Where a thousand small files a second cost nothing, if there is such a place."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-journal-", dir=fast_folder()))
    (folder / "w0").mkdir()
    return folder


def check_journal(data: bytes) -> None:
    """A damaged journal gives every record that is whole, once and in order, no other one, and says what is missing.

    Behind the control bytes: damages of four bytes each (place: 2, how, value), done to a journal of RECORDS records. Flag 1: the
    journal ends with zeros, as a preallocated segment does; flag 2: its end is cut off at the first damage's place instead.
    """
    flags, _, damages = control(data)
    whole = [raw for raw, _ in _written()]
    content = bytearray(b"".join(whole))
    if flags & 2 and len(damages) >= 2:
        del content[int.from_bytes(damages[:2], "big") % (len(content) + 1) :]
    else:
        for at in range(0, len(damages) - 3, 4):
            place = int.from_bytes(damages[at : at + 2], "big") % len(content)
            how, value = damages[at + 2], damages[at + 3]
            content[place : place + 1 + how % 64] = bytes([value]) * len(content[place : place + 1 + how % 64])
    intact = _intact(bytes(content), whole)
    records, gaps, batches = read_journal(bytes(content) + bytes(4_096 if flags & 1 else 0))
    expected = [stored for (_, stored), kept in zip(_written(), intact, strict=True) if kept]
    assert records == expected, "a record that is whole is not given out, or one that is not"
    for gap in gaps:
        assert gap.missing is not None
        assert gap.missing > 0
    last = max((number for number, kept in enumerate(intact, 1) if kept), default=0)
    assert sum(gap.missing or 0 for gap in gaps) == last - len(expected), "records are missing, and no gap says so"
    assert batches[-1].ended is not None, "the end of a boot whose worker is dead is not told"


def _intact(content: bytes, whole: list[bytes]) -> list[bool]:
    kept, at = [], 0
    for raw in whole:
        kept.append(content[at : at + len(raw)] == raw)
        at += len(raw)
    return kept


def check_segments(data: bytes) -> None:
    """Any bytes as segments, also records with a right CRC and anything in them: it ends, sequences grow, and nothing raises.

    Flag 1: the bytes are payloads, one after the other, each with its length before it; the records around them are made here.
    Flag 2: they lie in two segments. Flag 4: reading begins at a position inside.
    """
    flags, how, content = control(data)
    if flags & 1:
        content = framed(content, how)
    halves = [content[: len(content) // 2], content[len(content) // 2 :]] if flags & 2 else [content]
    start = Position(BOOT, 1, min(how, len(halves[0])), 1) if flags & 4 else None
    records, _gaps, batches = read_journal(*halves, start=start)
    positions = [batch.position for batch in batches if batch.position is not None]
    assert positions == sorted(positions), "the reader went back"
    assert all(isinstance(each, Intent | Entry | Closed) for each in records)
    for each in records:
        msgspec.msgpack.encode(each)


def framed(payloads: bytes, how: int) -> bytes:
    """Payloads, each behind its length in two bytes, as whole records; `how` 3: with holes, 5: of other boots, 7: of other versions."""
    made, sequence = b"", 0
    while payloads:
        count, payloads = int.from_bytes(payloads[:2], "big"), payloads[2:]
        payload, payloads = payloads[:count], payloads[count:]
        sequence += 1 + (how == 3 and count % 3)
        made += record(payload, BOOT + (how == 5 and count & 1), sequence, VERSION + (how == 7 and count & 1))
    return made


def read_journal(*segments: bytes, start: Position | None = None) -> tuple[list[Record], list[Gap], list[Batch]]:
    """Everything a reader gives of these segments of a dead worker, and that it comes to an end."""
    folder = _folder()
    for number, content in enumerate(segments, 1):
        (folder / "w0" / SegmentName(BOOT, number).file_name).write_bytes(content)
    for number in (2,)[: 2 - len(segments)]:
        (folder / "w0" / SegmentName(BOOT, number).file_name).unlink(missing_ok=True)
    reader = JournalReader(folder, "w0", start)
    batches: list[Batch] = []
    try:
        while not batches or not batches[-1].caught_up:
            batches.append(reader.read())
            assert len(batches) < READS_MAX, "the reader does not come to an end"
        again = reader.read()
        assert (again.records, again.caught_up) == ((), True), "a reader that has caught up has more to give"
    finally:
        reader.close()
    records = [each for batch in batches for each in batch.records]
    return records, [gap for batch in batches for gap in batch.gaps], batches


def grow_segments(content: bytes) -> None:
    """As one segment, and with the boot's number, by which whole records are looked for, all over it."""
    read_journal(content)
    read_journal(content.replace(b"\0\0\0\0", CRC.pack(BOOT)))


def journal_seeds() -> Seeds:
    """A bit here and there, a page lost, an end torn at some bytes."""
    size = sum(len(raw) for raw, _ in _written())
    torn = {f"torn at {place}": bytes([flags, 0]) + place.to_bytes(2, "big") for place in range(0, size, 37) for flags in (2, 3)}
    flips = {f"flipped at {place}": bytes([1, 0]) + place.to_bytes(2, "big") + b"\0\x41" for place in range(0, size, 53)}
    zeros = {f"zeros at {place}": bytes([1, 0]) + place.to_bytes(2, "big") + b"\x3f\0" for place in range(0, size, 97)}
    return {"whole": b"\1\0", **torn, **flips, **zeros}


def segment_seeds() -> Seeds:
    """Real records, and strange ones in real frames."""
    raws = b"".join(raw for raw, _ in _written())
    payloads = b"".join(_prefixed(raw[HEADER_BYTES:]) for raw, _ in _written())
    ends = payloads + _prefixed(msgspec.msgpack.encode(EndMark())) + payloads
    seeds = {"records": b"\0\0" + raws, "two segments": b"\2\0" + raws, "from inside": b"\4\x50" + raws, "wrong boot": b"\0\0" + raws[8:]}
    modes = {"payloads": 0, "with holes": 3, "other boots": 5, "other versions": 7}
    seeds |= {name: bytes([1, how]) + payloads for name, how in modes.items()}
    odd = {"deep": b"\x91" * 900, "no UTF-8": b"\x92\xa1c\xa1\xff", "no UTF-8 in the tag": b"\x92\xa1\xff\xa1a", "not an array": b"\x80"}
    return seeds | {"an end mark inside": b"\1\0" + ends} | {name: b"\1\0" + _prefixed(payload) for name, payload in odd.items()}


def _prefixed(payload: bytes) -> bytes:
    return len(payload).to_bytes(2, "big") + payload
