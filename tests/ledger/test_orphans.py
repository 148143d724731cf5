"""What stands for an exchange nobody saw end."""

from __future__ import annotations

from typing import Any

from gateway.late.orphans import orphans


def test_an_orphan_costs_what_was_reserved_and_says_that_it_is_unknown(make: Any) -> None:
    (entry,) = orphans([make.intent(7, session_id="s1", retry_count=2)], ended_at_us=make.noon_us + 99)
    assert (entry.exchange_id, entry.session_id, entry.team, entry.key, entry.account, entry.endpoint) == (
        "gx-7", "s1", "voice", "k1", "openai", "chat",
    )  # fmt: skip
    assert (entry.usage_source, entry.outcome, entry.status) == ("unknown", "unknown", None)
    assert (entry.usage, entry.cost_picousd, entry.ask_tokens) == (make.intent().ask_usage, 11_000_000_000, 1_400)
    assert (entry.model_asked, entry.model_served, entry.service_tier) == ("gpt-4o", None, None)
    assert (entry.admitted_at_us, entry.ended_at_us, entry.retry_count) == (make.noon_us, make.noon_us + 99, 2)
    assert entry.marks == ("store_away", "orphan")


def test_an_orphan_ends_no_sooner_than_it_began_also_where_the_clock_was_set_back(make: Any) -> None:
    (entry,) = orphans([make.intent(7)], ended_at_us=99)
    assert (entry.admitted_at_us, entry.ended_at_us) == (make.noon_us, make.noon_us)


def test_an_ask_without_a_price_leaves_an_unpriced_orphan_not_a_free_one(make: Any) -> None:
    assert orphans([make.intent(ask_cost_picousd=None)], ended_at_us=99)[0].cost_picousd is None


def test_no_intents_no_orphans() -> None:
    assert orphans([], ended_at_us=99) == ()
