"""usage and entries, over a ledger that has two teams and a call without a price."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.entries import OUTCOMES
from gateway.journal.format import Position
from gateway.journal.records import Entry
from gateway.ledger.rows import ENTRY_KEYS
from gateway.ledger.sqlite import SqliteLedger
from gateway.metrics import entries
from gateway.units import Meter

MAY_1_US = 1_777_593_600_000_000  # 2026-05-01T00:00:00Z
HOUR_US = 3_600_000_000
PUBLISHED_KEYS = 22  # of the design's form of an entry


def entry(number: int, team: str, hour: int, cost_picousd: int | None, model: str = "gpt-4o") -> Entry:
    at_us = MAY_1_US + hour * HOUR_US + number
    return Entry(
        exchange_id=f"gx-{number}", session_id=None, team=team, key=f"{team}-1", account="openai", endpoint="chat/completions",
        model_asked=model, model_served=model, service_tier="default", usage={Meter.INPUT_TEXT: 10, Meter.OUTPUT_TEXT: number},
        details={}, usage_source="reported", cost_picousd=cost_picousd, price_version="gpt-4o@2024-10-02", status=200, error_code=None,
        upstream_request_id="req_1", client_request_id=None, admitted_at_us=at_us, ended_at_us=at_us + 5, timings_us={"head": 3},
        retry_count=None, outcome="ok", ask_tokens=100,
    )  # fmt: skip


ENTRIES = [
    entry(1, "search", 0, 38_120_000_001),
    entry(2, "search", 1, 1_000_000_000_000),
    entry(3, "voice", 25, 5, model="gpt-4o-mini"),
    entry(4, "voice", 25, None, model="gpt-new"),
]


@pytest.fixture
def ledger(call: Any, home: Path) -> Iterator[SqliteLedger]:
    """A configured folder, and its ledger held open as the books hold it."""
    call("init")
    ledger = SqliteLedger(home / "var" / "ledger.db")
    ledger.fold("w0", Position(1, 1, 100, 4), ENTRIES)
    yield ledger
    ledger.close()


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter="\t"))


@pytest.mark.usefixtures("ledger")
class TestUsage:
    def test_is_exact_by_team_and_model(self, call: Any) -> None:
        rows = table(call("usage").stdout)
        assert [(row["team"], row["model"], row["calls"], row["output_text"], row["cost_usd"]) for row in rows] == [
            ("search", "gpt-4o", "2", "3", "1.038120000001"),
            ("voice", "gpt-4o-mini", "1", "3", "0.000000000005"),
            ("voice", "gpt-new", "1", "4", "0.00"),
        ]
        assert [row["unpriced_calls"] for row in rows] == ["0", "0", "1"]

    def test_as_json_has_both_forms_of_money_and_the_sum(self, call: Any) -> None:
        found = json.loads(call("usage", "--by", "team", "--json").stdout)
        assert found["total"] == {
            "calls": 4, "cost_picousd": 1_038_120_000_006, "cost_usd": "1.038120000006", "unpriced_calls": 1,
        }  # fmt: skip
        assert [row["team"] for row in found["rows"]] == ["search", "voice"]

    def test_as_csv_always_has_the_same_columns(self, call: Any) -> None:
        (row,) = csv.DictReader(io.StringIO(call("usage", "--by", "team", "--csv", "--team", "search").stdout))
        assert list(row) == [
            "team", "calls", *Meter, "cost_picousd", "cost_usd",
            "unpriced_calls", "reported_calls", "estimated_calls", "unknown_calls", "not_billed_calls",
        ]  # fmt: skip
        assert (row["input_text"], row["images"], row["cost_picousd"]) == ("20", "0", "1038120000001")

    def test_includes_since_and_excludes_until(self, call: Any) -> None:
        def calls(*times: str) -> int:
            found = json.loads(call("usage", "--json", *times).stdout)
            return int(found["total"]["calls"])

        assert calls("--since", "2026-05-01T01:00:00Z") == 3
        assert calls("--until", "2026-05-01T01:00:00Z") == 1
        assert calls("--since", "2026-05-02", "--until", "2026-05-03") == 2
        assert calls("--since", "2026-05-03") == 0

    def test_filters_by_any_dimension(self, call: Any) -> None:
        rows = table(call("usage", "--by", "day,team", "--model", "gpt-4o-mini").stdout)
        assert [(row["day"], row["team"]) for row in rows] == [("2026-05-02", "voice")]

    def test_reads_on_while_a_team_is_being_edited(self, call: Any) -> None:
        Path("config/teams/default.yaml").write_text("team: [")
        assert call("usage").exit_code == 0

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--since", "yesterday"), "--since: 'yesterday' is no time"),
            (("--until", "2026-05-01T00:30:00Z"), "--until: usage is kept by the hour"),
            (("--by", "team,colour"), "cannot group by 'colour'"),
            (("--json", "--csv"), "exclude each other"),
            (("--config", "nowhere"), "there is no folder nowhere"),
        ],
    )
    def test_tells_bad_questions(self, call: Any, arguments: tuple[str, ...], said: str) -> None:
        refused = call("usage", *arguments)
        assert refused.exit_code == 2
        assert said in refused.stderr


@pytest.mark.usefixtures("ledger")
class TestEntries:
    def test_are_json_lines_with_the_published_keys_first(self, call: Any) -> None:
        lines = [json.loads(line) for line in call("entries").stdout.splitlines()]
        assert [line["exchange_id"] for line in lines] == ["gx-1", "gx-2", "gx-3", "gx-4"]
        assert tuple(lines[0]) == ENTRY_KEYS
        assert list(lines[0])[:PUBLISHED_KEYS] == [
            "exchange_id", "session_id", "team", "key", "account", "endpoint", "model_asked", "model_served", "service_tier",
            "usage", "details", "usage_source", "cost_picousd", "price_version", "status", "error_code",
            "upstream_request_id", "client_request_id", "admitted_at", "ended_at", "timings_us", "retry_count",
        ]  # fmt: skip
        assert lines[0]["cost_picousd"] == 38_120_000_001
        assert lines[3]["cost_picousd"] is None
        assert lines[0]["admitted_at"] == "2026-05-01T00:00:00.000001Z"

    @pytest.mark.parametrize(
        ("arguments", "ids"),
        [
            (("--team", "voice"), ["gx-3", "gx-4"]),
            (("--limit", "1"), ["gx-4"]),
            (("--since", "2026-05-01T00:30:00Z", "--until", "2026-05-02"), ["gx-2"]),
            (("--model", "gpt-4o-mini", "--json"), ["gx-3"]),
            (("--exchange-id", "gx-2"), ["gx-2"]),
            (("--usage-source", "unknown"), []),
            (("--outcome", "client_gone"), []),
            (("--outcome", "ok", "--team", "search"), ["gx-1", "gx-2"]),
        ],
    )
    def test_are_filtered(self, call: Any, arguments: tuple[str, ...], ids: list[str]) -> None:
        found = call("entries", *arguments)
        assert found.exit_code == 0
        assert [json.loads(line)["exchange_id"] for line in found.stdout.splitlines()] == ids


def test_the_outcomes_one_may_ask_for_are_those_that_metrics_know() -> None:
    assert set(OUTCOMES) == set(entries.OUTCOMES)


@pytest.mark.parametrize("command", ["usage", "entries"])
def test_no_ledger_yet_is_told_with_its_place(call: Any, command: str) -> None:
    call("init")
    failed = call(command)
    assert failed.exit_code == 1
    assert "there is no ledger at" in failed.stderr
    assert "gateway serve" in failed.stderr
    assert not Path("var").exists(), "a question must not make a ledger"


@pytest.mark.parametrize("command", ["usage", "entries"])
def test_a_file_that_is_no_ledger_is_told(call: Any, command: str) -> None:
    call("init")
    Path("var").mkdir()
    Path("var/ledger.db").write_text("this is no database, and long enough to be looked at " * 100)
    failed = call(command)
    assert failed.exit_code == 1
    assert "damaged or not a ledger" in failed.stderr
