"""Which card a model name means, and who may use it: by exact names, never by resemblance."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.catalogue import Card, Catalogue
from gateway.endpoints.job import choose_card, may_see
from gateway.errors import ApiError
from gateway.teams import Team

GPT_4O = Card("gpt-4o", aliases=("chatgpt-4o",), snapshots=("gpt-4o-2024-08-06", "gpt-4o-2024-11-20"))
MINI = Card("gpt-4o-mini", snapshots=("gpt-4o-mini-2024-07-18",))
CARDS = Catalogue((GPT_4O, MINI)).by_name()


@pytest.mark.parametrize("name", ["gpt-4o", "chatgpt-4o", "gpt-4o-2024-08-06", "gpt-4o-2024-11-20"])
@pytest.mark.parametrize("models", [("*",), ("gpt-4o",), ("gpt-4o", "gpt-4o-mini")])
def test_a_listed_name_is_its_card_for_a_team_that_has_the_card(name: str, models: tuple[str, ...]) -> None:
    assert choose_card(name, Team("voice", "tier-1", models=models), CARDS) is GPT_4O


NOT_ITS_NAME = [
    "gpt-4o-realtime-preview", "gpt-4o-2024-05-13", "gpt-4", "gpt-4o-", "GPT-4O", "gpt-4o ", " gpt-4o", "openai/gpt-4o",
    "ft:gpt-4o:org::id", "gpt-4o-mini-2024-07-19", "gpt-4o-latest", "", "*",
]  # fmt: skip


@pytest.mark.parametrize("name", NOT_ITS_NAME)
def test_what_only_looks_like_a_name_is_no_model(name: str, assert_openai_error: Any) -> None:
    found = choose_card(name, Team("voice", "tier-1"), CARDS)
    assert isinstance(found, ApiError)
    error = assert_openai_error(found.status, {"content-type": "application/json"}, found.body(), 404, "model_not_found")
    assert error["type"] == "invalid_request_error"
    assert error["message"] == f"The model `{name}` does not exist or you do not have access to it."


def test_a_model_that_is_not_the_teams_looks_like_one_that_does_not_exist() -> None:
    team = Team("voice", "tier-1", models=("gpt-4o-mini",))
    found, absent = choose_card("gpt-4o", team, CARDS), choose_card("gpt-9", team, CARDS)
    assert isinstance(found, ApiError)
    assert isinstance(absent, ApiError)
    assert found.message.replace("gpt-4o", "gpt-9") == absent.message
    assert choose_card("gpt-4o-mini-2024-07-18", team, CARDS) is MINI


def test_a_team_that_is_allowed_one_snapshot_has_only_that() -> None:
    team = Team("voice", "tier-1", models=("gpt-4o-2024-08-06",))
    assert choose_card("gpt-4o-2024-08-06", team, CARDS) is GPT_4O
    for name in ("gpt-4o", "gpt-4o-2024-11-20", "chatgpt-4o"):
        assert isinstance(choose_card(name, team, CARDS), ApiError)


def test_what_is_shown_of_a_long_name_is_bounded() -> None:
    found = choose_card("m" * 10_000, Team("voice", "tier-1"), CARDS)
    assert isinstance(found, ApiError)
    assert len(found.message) < 300


UNKNOWN = [
    ({"unknown_model": "refuse"}, "refused"),
    ({"unknown_model": "allow_unpriced"}, None),
    ({"unknown_model": "allow_unpriced", "models": ("gpt-9",)}, None),
    ({"unknown_model": "allow_unpriced", "models": ("gpt-4o",)}, "refused"),
    ({"unknown_model": "price_as", "price_unknown_as": "gpt-4o"}, GPT_4O),
    ({"unknown_model": "price_as", "price_unknown_as": "gpt-4o", "models": ("gpt-4o",)}, "refused"),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "expected"), UNKNOWN, ids=[str(case[0]) for case in UNKNOWN])
def test_an_unknown_model_is_what_the_team_says_it_is(policy: dict[str, Any], expected: object) -> None:
    found = choose_card("gpt-9", Team("voice", "tier-1", **policy), CARDS)
    if expected == "refused":
        assert isinstance(found, ApiError)
    else:
        assert found is expected


def test_the_list_of_models_shows_what_may_be_asked_for() -> None:
    team = Team("voice", "tier-1", models=("gpt-4o",))
    assert [name for name in (*CARDS, "gpt-9") if may_see(name, team, CARDS)] == ["gpt-4o", "chatgpt-4o", *GPT_4O.snapshots]
