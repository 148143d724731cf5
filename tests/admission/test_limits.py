"""Which buckets a call passes, and what it costs in each."""

from __future__ import annotations

import msgspec
import pytest

from gateway.admission import PERIOD_MS, Limit, LimitKind, Scope
from gateway.admission.limits import OTHER_GROUP, TierExcludes, ask_for, limits_for, units_for
from gateway.admission.shares import prepaid
from gateway.catalogue import Card
from gateway.teams import Key, Team
from gateway.units import Limits

REALTIME = Card(
    model="gpt-4o-realtime-preview",
    aliases=("realtime",),
    snapshots=("gpt-4o-realtime-preview-2025-06-03",),
    limits={"tier-1": Limits(rpm=200, rpd=1000, tpm=40_000), "tier-2": Limits(rpm=400, tpm=200_000)},
)
PLAIN = Card(model="gpt-4o")
MEMBER = Card(model="gpt-4o-audio", limit_group="gpt-4o", limits={"tier-1": Limits(rpm=500, tpm=30_000)})
DEFAULTS = {"tier-1": Limits(rpm=500, tpm=200_000)}
TEAM = Team(name="voice", tier="tier-1")
KEY = Key(id="dev", hash="0" * 64)


def found(
    card: Card | None = REALTIME, *, team: Team = TEAM, key: Key = KEY, tier: str = "tier-1", account_tier: str | None = None
) -> object:
    """The limits by bucket, or the absence."""
    limits = limits_for(team, key, card, tier, DEFAULTS, "openai", account_tier)
    return limits if isinstance(limits, TierExcludes) else {limit.bucket: limit.capacity_units for limit in limits}


GROUP = "{team:voice}:group:gpt-4o-realtime-preview:"
ACCOUNT = "{account:openai}:group:gpt-4o-realtime-preview:"
OF_TIER_1 = {GROUP + "rpm": 200, GROUP + "rpd": 1000, GROUP + "tpm": 40_000}


def test_a_tiers_limits_are_the_cards_and_a_kind_it_leaves_out_is_unlimited() -> None:
    assert found() == OF_TIER_1
    assert found(tier="tier-2") == {GROUP + "rpm": 400, GROUP + "tpm": 200_000}


def test_a_tier_the_card_does_not_list_may_not_use_it_whatever_limits_the_team_has() -> None:
    team = Team(name="voice", tier="free", limits={"gpt-4o-realtime-preview": Limits(rpm=1)})
    assert found(team=team, tier="free") == TierExcludes("gpt-4o-realtime-preview", "voice", "free")


def test_a_card_without_limits_has_the_tiers_defaults_and_an_unlisted_tier_none() -> None:
    assert found(PLAIN) == {"{team:voice}:group:gpt-4o:rpm": 500, "{team:voice}:group:gpt-4o:tpm": 200_000}
    assert found(PLAIN, tier="tier-9") == {}


@pytest.mark.parametrize("name", ["gpt-4o-realtime-preview", "realtime", "gpt-4o-realtime-preview-2025-06-03"])
def test_the_teams_own_limit_stands_instead_of_the_tiers_of_that_kind_by_any_name_of_the_model(name: str) -> None:
    assert found(team=Team(name="voice", tier="tier-1", limits={name: Limits(rpm=7)})) == OF_TIER_1 | {GROUP + "rpm": 7}


def test_an_own_limit_may_be_of_a_kind_the_tier_does_not_have_and_the_models_id_outranks_a_snapshot() -> None:
    limits = {"gpt-4o-realtime-preview": Limits(rpd=50), "gpt-4o-realtime-preview-2025-06-03": Limits(rpd=60, tpm=5)}
    assert found(tier="tier-2", team=Team(name="voice", tier="tier-2", limits=limits)) == {
        GROUP + "rpm": 400,
        GROUP + "rpd": 50,
        GROUP + "tpm": 5,
    }


def test_other_models_limits_do_not_matter() -> None:
    assert found(team=Team(name="voice", tier="tier-1", limits={"gpt-4o": Limits(rpm=7)})) == OF_TIER_1


def test_cards_of_a_group_share_its_buckets_and_an_own_limit_of_one_model_has_its_own() -> None:
    team = Team(name="voice", tier="tier-1", limits={"gpt-4o": Limits(tpm=9), "gpt-4o-audio": Limits(rpm=7)})
    group = "{team:voice}:group:gpt-4o:"
    assert found(MEMBER, team=team) == {"{team:voice}:model:gpt-4o-audio:rpm": 7, group + "rpm": 500, group + "tpm": 9}
    assert found(PLAIN, team=team) == {group + "rpm": 500, group + "tpm": 9}


def test_key_and_team_have_limits_over_all_models() -> None:
    key = Key(id="dev", hash="0" * 64, limits=Limits(rpm=2))
    team = Team(name="voice", tier="tier-1", limits_all_models=Limits(tpm=3))
    assert found(team=team, key=key) == {"{team:voice}:key:dev:rpm": 2, "{team:voice}:team:tpm": 3} | OF_TIER_1


def test_a_call_without_a_card_has_the_tiers_defaults_in_one_bucket() -> None:
    other = f"{{team:voice}}:group:{OTHER_GROUP}:"
    assert found(None, account_tier="tier-1") == {other + "rpm": 500, other + "tpm": 200_000}
    assert found(None, tier="tier-9") == {}


def test_the_accounts_limits_are_its_own_tiers_and_come_last() -> None:
    limits = limits_for(TEAM, KEY, REALTIME, "tier-1", DEFAULTS, "openai", "tier-2")
    assert not isinstance(limits, TierExcludes)
    assert [limit.scope for limit in limits] == ["group"] * 3 + ["account"] * 2
    assert {limit.bucket: limit.capacity_units for limit in limits[3:]} == {ACCOUNT + "rpm": 400, ACCOUNT + "tpm": 200_000}
    assert found(account_tier=None) == OF_TIER_1
    assert found(account_tier="free") == OF_TIER_1  # OpenAI itself will say no
    assert "account" not in str(found(PLAIN, account_tier="tier-1"))  # the defaults are ours, not OpenAI's


def test_calendar_days_hold_for_the_teams_daily_limits_only() -> None:
    team = Team(name="voice", tier="tier-1", days="calendar")
    limits = limits_for(team, KEY, REALTIME, "tier-1", DEFAULTS, "openai", "tier-1")
    assert not isinstance(limits, TierExcludes)
    assert [(limit.scope, limit.kind) for limit in limits if limit.calendar] == [("group", "rpd")]
    assert {limit.kind: limit.period_ms for limit in limits} == PERIOD_MS


def limit(kind: LimitKind, capacity_units: int, scope: Scope = "team") -> Limit:
    return Limit(kind, scope, "team:voice", "team", capacity_units, PERIOD_MS[kind])


THREE = (limit("rpm", 5), limit("tpm", 1000), limit("tpm", 700, "group"))


@pytest.mark.parametrize(
    "input_tokens, output_tokens, tokens",
    [(100, 599, 699), (100, 600, 700), (100, 601, 700), (700, 1, 700), (701, 1, 701), (2000, 0, 2000)],
    ids=["fits", "fits exactly", "output clamped", "no room for output", "input never fits", "input exceeds all"],
)
def test_only_the_output_is_clamped_to_the_smallest_bucket(input_tokens: int, output_tokens: int, tokens: int) -> None:
    assert ask_for("x", THREE, input_tokens, output_tokens).costs_units == (1, tokens, tokens)


def test_the_policy_openai_counts_the_full_cap() -> None:
    assert ask_for("x", THREE, 100, 4096, "openai").costs_units == (1, 4196, 4196)


def test_a_clamped_call_fits_the_accounts_prepaid_bucket() -> None:
    of_account = limit("tpm", 100_000, "account")
    ask = ask_for("x", (of_account,), 10, 10**9)
    assert ask.costs_units == (prepaid(of_account).capacity_units,)


def test_actual_units_follow_the_kinds() -> None:
    assert units_for(THREE, 1, 250) == (1, 250, 250)
    assert units_for((), 1, 250) == ()


def test_a_limit_survives_the_wire_with_its_bucket() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(THREE[0]), type=Limit) == THREE[0]
