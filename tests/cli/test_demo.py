"""`gateway demo`, started as users start it: nothing set, not a terminal."""

from __future__ import annotations

import json
import re
import signal
from typing import Any

ROW = re.compile(r"^(search|support|total) .* (\d+\.\d{2,12}) +(\d+\.\d{2,12}) +(equal|DIFFERS)$", re.MULTILINE)


def test_the_bill_is_equal_to_the_last_digit(run: Any) -> None:
    ended = run("demo", "--seconds", "5")
    assert ended.returncode == 0, ended.stderr
    rows = ROW.findall(ended.stdout)
    assert {row[0] for row in rows} == {"search", "support", "total"}
    assert all(ledger == account and judged == "equal" for _, ledger, account, judged in rows)
    assert "EQUAL to the last digit:" in ended.stdout
    assert "NOT EQUAL" not in ended.stdout
    assert "\x1b" not in ended.stdout + ended.stderr
    assert "Failed:" not in ended.stdout


def test_a_wrong_price_on_a_card_makes_it_red_and_all_kinds_of_traffic_are_in_it(run: Any) -> None:
    ended = run("demo", "--seconds", "5", "--plant-fault", "--json")
    assert ended.returncode == 1, ended.stderr
    bill = json.loads(ended.stdout)
    assert bill["equal"] is False
    assert {found["what"] for found in bill["differences"]} == {"cost_picousd"}
    wrong = {(row["model"], row["service_tier"]) for row in bill["rows"] if not row["equal"]}
    assert wrong == {("gpt-4o-mini", "default")}
    booked = bill["total"]["booked"]
    assert booked["cost_picousd"] > bill["total"]["served"]["cost_picousd"]
    for kind in ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"):
        assert booked[kind] > 0, kind
    assert {row["service_tier"] for row in bill["rows"]} >= {"default", "priority"}
    assert bill["refused"]["support"] > 0, "the small team never ran into its limit"
    assert bill["failures"] == []


def test_ctrl_c_ends_it_with_the_bill_so_far(start: Any) -> None:
    demo = start("demo", "--seconds", "600")
    demo.line("gateway: two teams call", "stderr")
    status, out, err = demo.end(signal.SIGINT)
    assert "EQUAL to the last digit:" in out, err
    assert status == 0
    assert "Traceback" not in err
