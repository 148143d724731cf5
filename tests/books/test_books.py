"""The books as they run: real journals, a real ledger, real sockets, asked over the admin port."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.books import BooksOptions, run_books
from gateway.control import BooksAway
from gateway.units import Meter

Run = Callable[[Awaitable[None]], None]
CHECKS = ("workers", "worker:w0", "ledger", "journal", "buckets", "config", "settings")
ALL_WELL = dict.fromkeys(CHECKS, "ok ok")


def test_what_a_worker_writes_is_shown_as_usage_entries_and_metrics(place: Any, run: Run, entry: Any, intent: Any) -> None:
    async def story() -> None:
        async with place.books() as admin, place.worker() as worker:
            worker.write(intent(1), entry(1), intent(2), entry(2, usage_source="estimated"))
            await admin.until(admin.calls, lambda calls: calls == 2)
            usage = await admin.json("/admin/v1/usage?by=team,model")
            (row,) = usage["rows"]
            assert (row["team"], row["calls"], row["cost_picousd"], row["cost_usd"]) == ("voice", 2, 700_000_000, "0.0007")
            assert (row["usage"], row["estimated_calls"]) == ({"input_text": 200, "output_text": 20}, 1)
            entries = (await admin.json("/admin/v1/entries?team=voice"))["entries"]
            assert [shown["exchange_id"] for shown in entries] == ["gx-1", "gx-2"]
            labels = {"team": "voice", "model": "gpt-4o", "operation": "responses", "status_class": "2xx", "outcome": "ok"}
            await admin.metric_is(2, "gateway_requests_total", **labels)
            await admin.metric_is(2, "gateway_ledger_records_total", result="written")

    run(story())


def test_a_worker_is_given_the_configuration_and_all_is_well(place: Any, run: Run) -> None:
    async def story() -> None:
        async with place.books() as admin:
            assert (await admin.ready())[0] == 503
            async with place.worker() as worker:
                snapshot = await worker.snapshot_where(lambda _: True)
                assert [team.name for team in snapshot.teams] == ["voice"]
                assert await admin.until(admin.ready, lambda ready: ready[0] == 200) == (200, ALL_WELL)
                await admin.metric_is(1, "gateway_ready")
                await admin.metric_is(3, "gateway_requests_in_flight", team="voice")
                (reading,) = (await admin.json("/admin/v1/limits?team=voice"))["limits"]
                assert reading["used_units"] == 125
            _, checks = await admin.until(admin.ready, lambda ready: ready[0] == 503)
            assert checks["workers"] == "failed none_serving"
            await admin.metric_is(0, "gateway_ready")
            await admin.metric_is(0, "gateway_requests_in_flight", team="voice")

    run(story())


def test_books_that_start_again_count_nothing_twice(place: Any, run: Run, entry: Any, intent: Any) -> None:
    async def story() -> None:
        async with place.worker() as worker:
            worker.write(intent(1), entry(1), intent(2))
            async with place.books() as admin:
                await admin.until(admin.calls, lambda calls: calls == 1)
            worker.write(entry(2), intent(3), entry(3))
            async with place.books() as admin:
                await admin.until(admin.calls, lambda calls: calls == 3)
                await admin.metric_is(2, "gateway_ledger_records_total", result="written")
                assert await admin.metric("gateway_ledger_records_total", result="duplicate") == 0

    run(story())


def test_what_was_written_last_is_folded_before_the_books_close(place: Any, run: Run, entry: Any, intent: Any) -> None:
    async def story() -> None:
        async with place.worker() as worker, place.books():
            worker.write(*[record for number in range(500) for record in (intent(number), entry(number))])
        with sqlite3.connect(place.root / "ledger.db") as database:
            assert database.execute("SELECT count(*) FROM entries").fetchone() == (500,)
        database.close()

    run(story())


def test_the_end_of_a_journal_is_found_also_when_the_clock_was_set_back(place: Any, run: Run, entry: Any) -> None:
    """Records that were stamped at a later hour were not written since: there are more behind them."""
    later_us, count = time.time_ns() // 1000 + 7_200_000_000, 9_000  # three batches and more

    async def story() -> None:
        async with place.worker() as worker:
            for number in range(count):
                worker.write(entry(number, admitted_at_us=later_us, ended_at_us=later_us + number))
            async with place.books():
                pass
        with sqlite3.connect(place.root / "ledger.db") as database:
            assert database.execute("SELECT count(*) FROM entries").fetchone() == (count,)
        database.close()

    run(story())


def test_a_dead_workers_open_exchanges_become_unknown_at_what_they_reserved(place: Any, run: Run, entry: Any, intent: Any) -> None:
    async def story() -> None:
        async with place.books() as admin:
            async with place.worker() as worker:
                worker.write(intent(1), intent(2), entry(2))
                await admin.until(admin.calls, lambda calls: calls == 1)
            await admin.until(admin.calls, lambda calls: calls == 2)
            (row,) = (await admin.json("/admin/v1/usage?by=team"))["rows"]
            assert (row["unknown_calls"], row["cost_picousd"]) == (1, 350_000_000 + 12_500_000_000)
            await admin.metric_is(1, "gateway_orphaned_intents_total")
            await admin.metric_is(1, "gateway_usage_source_total", source="none")

    run(story())


def test_a_locked_ledger_has_a_name_and_loses_nothing(place: Any, run: Run, entry: Any, intent: Any) -> None:
    async def story() -> None:
        async with place.books() as admin, place.worker() as worker:
            await admin.until(admin.ready, lambda ready: ready[0] == 200)
            lock = sqlite3.connect(place.root / "ledger.db", isolation_level=None)
            lock.execute("BEGIN EXCLUSIVE")
            worker.write(intent(1), entry(1))
            status, checks = await admin.until(admin.ready, lambda ready: ready[1]["ledger"] != "ok ok")
            assert (status, checks["ledger"]) == (200, "degraded unavailable")
            await admin.metric_is(1, "gateway_degraded", check="ledger", state="unavailable")
            assert await admin.metric("gateway_ready") == 1, "calls are carried meanwhile"
            assert await admin.metric("gateway_ledger_records_total", result="failed") in (1, 2)  # the books may have come between the two
            lock.execute("ROLLBACK")
            lock.close()
            await admin.until(admin.calls, lambda calls: calls == 1)
            assert (await admin.until(admin.ready, lambda ready: ready[1]["ledger"] == "ok ok"))[0] == 200
            await admin.metric_is(1, "gateway_ledger_records_total", result="written")

    run(story())


def test_books_that_start_without_a_ledger_know_their_workers(place: Any, run: Run) -> None:
    """A worker that starts then would get no configuration else, and no call would be carried until the ledger is back."""

    async def story() -> None:
        (place.root / "ledger.db").write_bytes(b"this is no database, and as long as a page of one: " * 100)
        async with place.worker() as worker, place.books() as admin:
            await worker.snapshot_where(lambda _: True)
            found = ALL_WELL | {"ledger": "degraded unavailable", "buckets:w0": "degraded not_refilled"}
            del found["buckets"]
            await admin.until(admin.ready, lambda ready: ready == (200, found))

    run(story())


def test_a_hole_in_a_journal_is_an_alarm_and_the_rest_is_read(place: Any, run: Run, entry: Any, intent: Any) -> None:
    async def story() -> None:
        async with place.worker() as worker:
            worker.write(intent(1), entry(1), intent(2), entry(2))
            worker.journal.flush()
            segment = min((place.journal / "w0").glob("*.journal"))
            content = segment.read_bytes()
            damaged = content.index(b"gx-1", content.index(b"gx-1") + 1)
            with segment.open("r+b") as file:
                file.seek(damaged)
                file.write(b"XX")
            async with place.books() as admin:
                await admin.until(admin.calls, lambda calls: calls == 1)
                await admin.metric_is(1, "gateway_journal_gaps_total", worker="w0")
                _, checks = await admin.until(admin.ready, lambda ready: ready[0] == 200)
                assert checks["journal:w0"] == "degraded gap_found"

    run(story())


def test_a_good_change_rules_when_every_worker_has_taken_it(place: Any, run: Run) -> None:
    async def story() -> None:
        async with place.books() as admin, place.worker("w0") as one, place.worker("w1") as other:
            await one.snapshot_where(lambda _: True)
            await other.snapshot_where(lambda _: True)
            place.write("teams/search.yaml", "team: search\ntier: tier-1\nmodels: ['*']\n")
            assert (await admin.json("/admin/v1/reload", "POST"))["ok"] is True
            for worker in (one, other):
                assert {team.name for team in worker.snapshots[-1].teams} == {"voice", "search"}
            assert [team["team"] for team in (await admin.json("/admin/v1/teams"))["teams"]] == ["search", "voice"]
            assert await admin.metric("gateway_config_reloads_total", result="ok") in (1, 2)  # the watch may have seen it first

    run(story())


def test_a_changed_file_is_noticed_without_being_told(place: Any, run: Run) -> None:
    async def story() -> None:
        async with place.books(), place.worker() as worker:
            await worker.snapshot_where(lambda _: True)
            place.write("teams/search.yaml", "team: search\ntier: tier-1\nmodels: ['*']\n")
            await worker.snapshot_where(lambda snapshot: len(snapshot.teams) == 2)

    run(story())


def test_a_bad_change_keeps_the_old_configuration_and_says_so(place: Any, run: Run) -> None:
    async def story() -> None:
        async with place.books() as admin, place.worker() as worker:
            await admin.until(admin.ready, lambda ready: ready[0] == 200)
            place.write("teams/voice.yaml", "team: voice\ntier: tier-9\n")
            refused = (await admin.json("/admin/v1/reload", "POST"))["error"]
            assert refused["code"] == "config_refused"
            assert "tier-9" in refused["message"]
            status, checks = await admin.ready()
            assert (status, checks["config"]) == (200, "degraded last_reload_refused")
            assert await admin.metric("gateway_config_reloads_total", result="error") in (1, 2)  # the watch may have seen it first
            assert len(worker.snapshots) == 1
            place.write("teams/voice.yaml", "team: voice\ntier: tier-1\nmodels: ['*']\n")
            assert (await admin.json("/admin/v1/reload", "POST"))["ok"] is True
            assert (await admin.ready())[1]["config"] == "ok ok"

    run(story())


def test_a_setting_that_is_read_once_is_named_until_it_is_as_it_was(place: Any, run: Run) -> None:
    async def story() -> None:
        text = (place.root / "config" / "gateway.yaml").read_text()
        async with place.books() as admin, place.worker():
            await admin.until(admin.ready, lambda ready: ready[0] == 200)
            for addition, state in (("proxy: {listen: 127.0.0.1:9}\n", "degraded need_restart"), ("", "ok ok")):
                place.write("gateway.yaml", text + addition)
                assert (await admin.json("/admin/v1/reload", "POST"))["ok"] is True
                status, checks = await admin.ready()
                assert (status, checks["settings"]) == (200, state)
                await admin.metric_is(1 if addition else None, "gateway_degraded", check="settings", state="need_restart")

    run(story())


def test_what_one_worker_refuses_rules_in_none(place: Any, run: Run) -> None:
    async def story() -> None:
        async with place.books() as admin, place.worker("w0") as willing, place.worker("w1") as other:
            await willing.snapshot_where(lambda _: True)
            await other.snapshot_where(lambda _: True)
            other.refuses = lambda _: True
            place.write("teams/search.yaml", "team: search\ntier: tier-1\nmodels: ['*']\n")
            refused = (await admin.json("/admin/v1/reload", "POST"))["error"]
            assert "worker w1: ValueError: this worker does not take it" in refused["message"]
            given = [[team.name for team in snapshot.teams] for snapshot in willing.snapshots]
            assert given[:3] == [["voice"], ["search", "voice"], ["voice"]]
            assert given[3:] in ([], [["search", "voice"], ["voice"]])  # the watch may have seen it first
            assert [team["team"] for team in (await admin.json("/admin/v1/teams"))["teams"]] == ["voice"]

    run(story())


def test_a_change_without_a_worker_waits_for_one_and_says_so(place: Any, run: Run) -> None:
    async def story() -> None:
        async with place.books() as admin:
            async with place.worker() as worker:
                await admin.until(admin.ready, lambda ready: ready[0] == 200)
                assert len(worker.snapshots) == 1
            await admin.until(admin.ready, lambda ready: ready[0] == 503)
            place.write("teams/search.yaml", "team: search\ntier: tier-1\nmodels: ['*']\n")
            assert "no worker is there" in (await admin.json("/admin/v1/reload", "POST"))["error"]["message"]
            assert (await admin.ready())[1]["config"] == "degraded waiting_for_worker"
            shown = {"check": "config", "state": "waiting_for_worker"}
            await admin.metric_is(1, "gateway_degraded", **shown)
            async with place.worker() as worker:
                await admin.until(admin.ready, lambda ready: ready == (200, ALL_WELL))
                assert [len(snapshot.teams) for snapshot in worker.snapshots] == [2]

    run(story())


def test_a_configuration_that_is_bad_at_the_start_ends_the_books_with_its_problems(
    place: Any, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    async def story() -> None:
        place.write("teams/voice.yaml", "team: voice\ntier: tier-9\n")
        assert await run_books(BooksOptions(str(place.root / "config")), {}, asyncio.Event()) == 2

    run(story())
    said = capsys.readouterr().err
    assert "voice.yaml:2: tier" in said


@pytest.mark.parametrize("waits_on", [True, False], ids=["until they have closed", "unless they are told to stop"])
def test_books_that_are_kept_already_are_waited_for(place: Any, run: Run, loopback: Any, waits_on: bool) -> None:
    async def story() -> None:
        stop = asyncio.Event()
        with capture_logs() as said:
            async with place.books():
                second = asyncio.create_task(run_books(BooksOptions(str(place.root / "config")), {}, stop))
                await loopback.until(lambda: "books_wait_for_others" in [line["event"] for line in said])
                if not waits_on:
                    stop.set()
                    assert await second == 3
            turns = ["books_open", "books_closed", "books_open"]
            if waits_on:
                await loopback.until(lambda: [line["event"] for line in said if line["event"] in turns] == turns)
                stop.set()
                assert await second == 0

    run(story())


async def known(worker: Any, answer_id: str) -> str | None:
    """Asked again when busy books could not tell in time."""
    while True:
        try:
            owner: str | None = await worker.control.owner_of(answer_id, timeout_ms=10_000)
            return owner
        except BooksAway:
            continue


def test_a_worker_learns_who_made_an_answer_even_a_moment_ago(place: Any, run: Run, entry: Any, intent: Any) -> None:
    async def story() -> None:
        async with place.books(), place.worker() as worker:
            await worker.snapshot_where(lambda _: True)
            worker.write(intent(1), entry(1))
            assert await known(worker, "resp_1") == "voice"
            assert await known(worker, "resp_nobody") is None

    run(story())


def test_a_new_worker_gets_its_day_back_from_the_ledger(place: Any, run: Run, entry: Any, intent: Any) -> None:
    async def story() -> None:
        now_us = time.time_ns() // 1000
        recent = {"admitted_at_us": now_us, "ended_at_us": now_us}
        async with place.books():
            async with place.worker() as first:
                assert await first.refills.get() == ()
                first.write(intent(1, admitted_at_us=now_us), entry(1, **recent), intent(2, admitted_at_us=now_us), entry(2, **recent))
            async with place.worker() as second:
                (spent,) = await second.refills.get()
                assert (spent.team, spent.key, spent.requests) == ("voice", "dev", 2)
                assert spent.at_ms >= now_us // 1000
                await second.begun.wait()
                assert second.told == ["snapshot", "refill", "begin"]  # before, clients would be let in to an empty day

    run(story())


def test_a_worker_whose_day_the_ledger_cannot_tell_is_named_until_it_is_refilled(
    place: Any, run: Run, entry: Any, intent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.books.links.REFILL_WAIT_S", 0.05)  # what it waits in vain

    async def story() -> None:
        async with place.books() as admin:
            lock = sqlite3.connect(place.root / "ledger.db", isolation_level=None)
            lock.execute("BEGIN EXCLUSIVE")
            async with place.worker() as worker:
                worker.write(intent(1), entry(1))
                _, checks = await admin.until(admin.ready, lambda ready: "buckets:w0" in ready[1] and ready[0] == 200)
                assert checks["buckets:w0"] == "degraded not_refilled"
                await admin.metric_is(1, "gateway_degraded", check="buckets:w0", state="not_refilled")
                await worker.begun.wait()  # late is better than never
                assert worker.told == ["snapshot", "begin"]
            lock.execute("ROLLBACK")
            lock.close()
            await admin.until(admin.calls, lambda calls: calls == 1)
            monkeypatch.undo()
            async with place.worker() as again:
                await again.refills.get()
                assert (await admin.until(admin.ready, lambda ready: ready[0] == 200))[1]["buckets"] == "ok ok"

    run(story())


def test_late_usage_corrects_the_entry_and_counts_no_call(place: Any, run: Run, entry: Any, intent: Any) -> None:
    async def story() -> None:
        async with place.books() as admin, place.worker() as worker:
            queued = entry(1, usage=intent(1).ask_usage, usage_source="unknown", cost_picousd=12_500_000_000, answer_id="resp_1")
            worker.write(intent(1), queued)
            fetched = entry(
                2, endpoint="responses/retrieve", usage={}, usage_source="not_billed", cost_picousd=0, answer_id="resp_1",
                late_usage={Meter.INPUT_TEXT: 400, Meter.OUTPUT_TEXT: 2_000},
            )  # fmt: skip
            worker.write(intent(2), fetched)
            await admin.metric_is(1, "gateway_late_usage_total")
            (shown,) = (await admin.json("/admin/v1/entries?exchange_id=gx-1"))["entries"]
            assert (shown["usage_source"], shown["cost_picousd"], shown["revision"]) == ("reported", 21_000_000_000, 2)
            assert await admin.calls() == 2

    run(story())
