"""The account is read as it was written, added up, and a ledger is held against it."""

from __future__ import annotations

import pytest

from gateway.simulator.account import AccountWriter, Difference, Line, Unpriced, compare, read_account, total_picousd
from gateway.units import Meter


def line(**changes) -> Line:
    """A billed line of exchange gx-1: 7 tokens in, 3 out, 100 picoUSD."""
    facts = {
        "kind": "billed", "request_id": "req_1", "client_request_id": "gx-1", "method": "POST", "path": "/v1/chat/completions",
        "model": "gpt-4o", "service_tier": "default", "quantities": {Meter.INPUT_TEXT: 7, Meter.OUTPUT_TEXT: 3}, "details": {},
        "cost_picousd": 100, "status": 200, "streamed": False, "complete": True, "answer_id": None, "started_at_us": 1, "ended_at_us": 2,
    }  # fmt: skip
    return Line(**{**facts, **changes})


def entry(**changes) -> dict:
    """The entry that agrees with it, as `gateway entries --json` prints one."""
    facts = {
        "exchange_id": "gx-1", "usage": {"input_text": 7, "output_text": 3}, "usage_source": "reported", "cost_picousd": 100,
        "upstream_request_id": "req_1",
    }  # fmt: skip
    return {**facts, **changes}


FREE = {"kind": "free", "quantities": {}, "cost_picousd": 0}
REFUSED = {"kind": "refused", "quantities": {}, "cost_picousd": 0, "status": 429}


@pytest.mark.parametrize(
    "entries, account",
    [
        pytest.param([], [], id="nothing of either"),
        pytest.param([entry()], [line()], id="the same"),
        pytest.param([entry(usage={"input_text": 7, "output_text": 3, "cached_text": 0})], [line()], id="a zero is as good as nothing"),
        pytest.param([entry(cost_picousd=None)], [line(cost_picousd=None)], id="without a price on both sides"),
        pytest.param([entry(usage_source="estimated", cost_picousd=5)], [line(complete=False)], id="estimated"),
        pytest.param([entry(usage_source="unknown", cost_picousd=5)], [line(complete=False)], id="unknown"),
        pytest.param([], [line(**FREE)], id="what is free needs no entry"),
        pytest.param([], [line(**REFUSED)], id="what was refused needs no entry"),
        pytest.param([], [line(**FREE, client_request_id=None)], id="what is free and nobody's"),
        pytest.param([entry(usage={}, cost_picousd=0)], [line(**FREE)], id="what is free may have one"),
        pytest.param([entry(usage={}, cost_picousd=0, usage_source="not_billed")], [line(**REFUSED)], id="what was refused may have one"),
        pytest.param([entry(usage_source="unknown")], [], id="it never arrived and the ledger does not know"),
        pytest.param([entry()], [line(**REFUSED, request_id="req_0"), line()], id="refused first and then served"),
    ],
)
def test_what_agrees_has_no_differences(entries, account):
    assert compare(entries, account) == []


@pytest.mark.parametrize(
    "entries, account, found",
    [
        pytest.param([], [line()], [Difference("missing", "gx-1", "req_1", "entry", 100, None)], id="not in the ledger"),
        pytest.param(
            [], [line(client_request_id=None)], [Difference("missing", None, "req_1", "entry", 100, None)], id="billed and nobody's"
        ),
        pytest.param([entry()], [], [Difference("extra", "gx-1", "req_1", "entry", None, 100)], id="never served"),
        pytest.param([entry(), entry()], [line()], [Difference("twice", "gx-1", "req_1", "entry", 1, 2)], id="booked twice"),
        pytest.param(
            [entry(cost_picousd=101)], [line()], [Difference("differing", "gx-1", "req_1", "cost_picousd", 100, 101)], id="one over"
        ),
        pytest.param(
            [entry(cost_picousd=None)], [line()], [Difference("differing", "gx-1", "req_1", "cost_picousd", 100, None)], id="no price"
        ),
        pytest.param(
            [entry(usage={"input_text": 6, "output_text": 3, "cached_text": 1})], [line()],
            [Difference("differing", "gx-1", "req_1", "cached_text", 0, 1), Difference("differing", "gx-1", "req_1", "input_text", 7, 6)],
            id="counted elsewhere",
        ),
        pytest.param(
            [entry(usage={}, cost_picousd=0, usage_source="not_billed")], [line()],
            [Difference("differing", "gx-1", "req_1", "cost_picousd", 100, 0)], id="billed and booked as not billed",
        ),
        pytest.param(
            [entry()], [line(**REFUSED)],
            [Difference("differing", "gx-1", "req_1", "input_text", 0, 7), Difference("differing", "gx-1", "req_1", "output_text", 0, 3),
             Difference("differing", "gx-1", "req_1", "cost_picousd", 0, 100)], id="refused and booked",
        ),
        pytest.param(
            [entry()], [line(), line(request_id="req_2")],
            [Difference("differing", "gx-1", "req_2", "input_text", 14, 7), Difference("differing", "gx-1", "req_2", "output_text", 6, 3),
             Difference("differing", "gx-1", "req_2", "cost_picousd", 200, 100)], id="served twice and booked once",
        ),
    ],
)  # fmt: skip
def test_every_disagreement_is_found(entries, account, found):
    assert compare(entries, account) == found


def test_lines_are_read_as_they_were_written_and_appended(tmp_path):
    path = tmp_path / "account"
    for number in range(2):
        writer = AccountWriter(path)
        writer.append(line(request_id=f"req_{number}"))
        assert read_account(path)[-1] == line(request_id=f"req_{number}")
        writer.close()
    assert [each.request_id for each in read_account(path)] == ["req_0", "req_1"]
    assert total_picousd(read_account(path)) == 200


@pytest.mark.parametrize("tail", [b"{", b"{}\n", b'{"kind":"billed"}\n'], ids=["torn", "empty", "short"])
def test_a_line_that_is_none_is_named(tmp_path, tail):
    path = tmp_path / "account"
    writer = AccountWriter(path)
    writer.append(line())
    writer.close()
    path.write_bytes(path.read_bytes() + tail)
    with pytest.raises(ValueError, match=r"account:2: "):
        read_account(path)


def test_a_total_without_a_price_is_no_total():
    with pytest.raises(Unpriced, match="gpt-4o"):
        total_picousd([line(), line(cost_picousd=None)])
