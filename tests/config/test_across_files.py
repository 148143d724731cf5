"""What only shows when files are held against each other, or are not there at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Folder

HASH = "sha256:" + "ab" * 32
KEY = f'keys: [{{id: a, hash: "{HASH}"}}]\n'
T = "config/teams/voice.yaml"
EXAMPLE = "sha256:a50ee41f8b7e0ae23721459d9a5afe26b13af4b8573fe979a0280d4623485ff1"
A = "accounts:\n  openai:\n    api_key: sk-x\n"

OTHERS = {
    "a card with a price without quotes": (
        {
            "models/gpt-4o.yaml": "model: gpt-4o\nprices:\n  - effective_from: 2024-10-02\n    source: x\n"
            "    usd_per_million_tokens:\n      text: {input: 2.5}\n"
        },
        ["config/models/gpt-4o.yaml:6: prices[0].usd_per_million_tokens.text.input:"],
    ),
    "a card with a tier that is not there": (
        {"models/o1.yaml": "model: o1\nlimits:\n  tier-2: {rpm: 1}\n  tier-7: {rpm: 1}\n"},
        ["config/models/o1.yaml:4: limits.tier-7: no such tier; allowed: tier-1, tier-2; did you mean 'tier-2'?"],
    ),
    "two cards with one name": (
        {"models/other.yaml": "model: other\nsnapshots:\n  - other-1\n  - gpt-4o-2024-08-06\n"},
        ["config/models/other.yaml:4: snapshots[1]: 'gpt-4o-2024-08-06' is a name in config/models/gpt-4o.yaml already"],
    ),
    "two cards of one model": (
        {"models/z.yaml": "model: gpt-4o\n"},
        ["config/models/z.yaml:1: model: 'gpt-4o' is a name in config/models/gpt-4o.yaml already"],
    ),
    "a start that is no tier": (
        {"tiers.yaml": "tiers: {tier-1: {}}\nstart: tier-0\n"},
        ["config/tiers.yaml:2: start: tier-0 is not a tier; allowed: tier-1"],
    ),
    "two teams of one name": (
        {"teams/w.yaml": "team: voice\n"},
        ["config/teams/w.yaml:1: team: 'voice' is the team of config/teams/voice.yaml already"],
    ),
    "two teams with one key": (
        {"teams/voice.yaml": "team: voice\n" + KEY, "teams/w.yaml": "team: w\n" + KEY.replace("id: a", "id: b")},
        ["config/teams/w.yaml:2: keys[0].hash: is the key 'a' of config/teams/voice.yaml already"],
    ),
    "a name that ends in .yml": ({"teams/w.yml": "team: w\n"}, ["config/teams/w.yml: is not read, let its name end in .yaml"]),
    "an editor's leftovers are not read": ({"teams/.w.yaml": "x", "teams/w.yaml~": "x", "teams/README.md": "x"}, []),
    "a number beyond 64 bits": (
        {"models/gpt-4o.yaml": f"model: gpt-4o\ncontext_window_tokens: {2**64}\n"},
        ["config/models/gpt-4o.yaml:1: a number is larger than 64 bits can hold"],
    ),
    "budgets and realtime caps, told once": (
        {
            "teams/voice.yaml": 'team: voice\nbudget: {day_usd: "1"}\nrealtime: {sessions_max: 1}\n',
            "teams/w.yaml": 'team: w\nbudget: {day_usd: "1"}\n',
        },
        [
            f"{T}:2: warning: budget: budgets are read but not enforced in this version (and in 1 more team files)",
            f"{T}:3: warning: realtime: realtime caps are read but not enforced in this version",
        ],
    ),
    "a tier that would rise, told once": (
        {
            "teams/voice.yaml": "team: voice\nmodels: [gpt-4o]\ntier: auto\n",
            "teams/w.yaml": 'team: w\n"tier": "auto"\n',
            "teams/x.yaml": "{team: x, tier: auto}\n",
            "teams/y.yaml": "team: y\n# tier: auto\n",
            "teams/z.yaml": "team: z\ntier: tier-1\n",
        },
        [f"{T}:3: warning: tier: `auto` stays at `start` of tiers.yaml and does not rise in this version (and in 2 more team files)"],
    ),
    "a card of one's own that takes in what it has no price for": (
        {
            "models/own.yaml": "model: own\nmodalities:\n  text: [input, output]\n  image: [input]\nprices:\n"
            '  - effective_from: 2024-10-02\n    source: x\n    usd_per_million_tokens: {text: {input: "1", output: "2"}}\n'
        },
        [
            "config/models/own.yaml:4: warning: modalities.image: image input has no price in the newest prices, "
            "so calls that use it will be unpriced"
        ],
    ),
    "errors before warnings": (
        {"teams/a.yaml": "team: a\ntier: auto\n", "teams/voice.yaml": "team: voice\ntier: tier-9\n"},
        [
            f"{T}:2: tier: no such tier, found 'tier-9'; allowed: tier-1, tier-2, auto; did you mean 'tier-2'?",
            "config/teams/a.yaml:2: warning: tier: `auto` stays at `start` of tiers.yaml and does not rise in this version",
        ],
    ),
    "an example key": (
        {"teams/voice.yaml": f'team: voice\nkeys:\n  - {{id: a, hash: "{EXAMPLE}"}}\n'},
        [
            f"{T}:3: warning: keys[0].hash: is the key of the published example, which anybody knows; "
            "make your own with `gateway keys create`"
        ],
    ),
    "an example key that is revoked": ({"teams/voice.yaml": f'team: voice\nkeys:\n  - {{id: a, hash: "{EXAMPLE}", revoked: true}}\n'}, []),
}


@pytest.mark.parametrize("files, said", OTHERS.values(), ids=OTHERS.keys())
def test_files_are_held_against_each_other(folder: Folder, files: dict[str, str], said: list[str]) -> None:
    for name, text in files.items():
        folder.write(name, text)
    found = folder.texts()
    assert len(found) == len(said), found
    for text, start in zip(found, said, strict=True):
        assert text == start if not start.endswith(":") else text.startswith(start)


def test_all_problems_are_told_at_once_in_the_order_of_the_files(folder: Folder) -> None:
    folder.write("gateway.yaml", A + "workers: 3\nledgre: x\n")
    folder.write("tiers.yaml", "start: tier-1\ntiers:\n  tier-1: {dyas: 1}\n")
    folder.write("models/gpt-4o.yaml", "model: gpt-4o\nfeatures: {flying: true}\n")
    folder.write("teams/a.yaml", "team: a\nmodels: [gpt-4, gpt-4o]\ntier: tier-3\naccount: azure\n")
    folder.write("teams/voice.yaml", "team: voice\nmode: off\n")
    assert [text.partition(": ")[0] + " " + text.split(": ")[1] for text in folder.texts()] == [
        "config/gateway.yaml:5 ledgre",
        "config/tiers.yaml:3 tiers.tier-1.dyas",
        "config/models/gpt-4o.yaml:2 features.flying",
        "config/teams/a.yaml:2 models[0]",
        "config/teams/a.yaml:3 tier",
        "config/teams/a.yaml:4 account",
        "config/teams/voice.yaml:2 mode",
    ]


def test_what_cannot_be_known_is_not_complained_about(folder: Folder) -> None:
    """A team's models and tier are not doubted while the card or tiers.yaml that would name them cannot be parsed."""
    folder.write("tiers.yaml", "start: [\n")
    folder.write("models/gpt-4o.yaml", "model: [\n")
    folder.write("gateway.yaml", "accounts: [\n")
    assert [text.partition(":")[0] for text in folder.texts()] == ["config/gateway.yaml", "config/tiers.yaml", "config/models/gpt-4o.yaml"]


@pytest.mark.parametrize("name", ["gateway.yaml", "teams/voice.yaml"])
def test_a_folder_in_the_place_of_a_file_is_a_problem(folder: Folder, name: str) -> None:
    (folder.root / name).unlink()
    (folder.root / name).mkdir()
    assert folder.texts() == [f"config/{name}: is not a file"]


def test_missing_files_are_named(folder: Folder) -> None:
    (folder.root / "gateway.yaml").unlink()
    (folder.root / "tiers.yaml").unlink()
    (folder.root / "teams" / "gone.yaml").symlink_to("nowhere")
    assert folder.texts() == [
        "config/gateway.yaml: there is no such file",
        "shipped/tiers.yaml: there is no such file",
        "config/teams/gone.yaml: there is no such file",
    ]


def test_an_unreadable_file_is_named(folder: Folder) -> None:
    def read(path: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    folder._read = read  # type: ignore[method-assign]
    assert folder.texts()[0] == "config/gateway.yaml: cannot be read: Permission denied"


@pytest.mark.parametrize("model", ["aaa", "zzz"])
def test_a_card_of_ones_own_is_blamed_for_a_name_that_a_shipped_one_has(folder: Folder, model: str) -> None:
    (folder.root / "models" / "gpt-4o.yaml").unlink()
    Path("shipped/models").mkdir()
    Path("shipped/models/gpt-4o.yaml").write_text("model: gpt-4o\n")
    folder.write(f"models/{model}.yaml", f"model: {model}\naliases: [gpt-4o]\n")
    assert folder.texts() == [f"config/models/{model}.yaml:2: aliases[0]: 'gpt-4o' is a name in shipped/models/gpt-4o.yaml already"]


def test_shipped_cards_are_not_warned_of(folder: Folder) -> None:
    Path("shipped/models").mkdir()
    prices = 'prices: [{effective_from: 2024-10-02, source: x, usd_per_million_tokens: {text: {input: "1"}}}]\n'
    Path("shipped/models/other.yaml").write_text("model: other\nmodalities: {image: [input]}\n" + prices)
    assert folder.texts() == []


def test_the_demo_hears_nothing_of_what_is_not_in_this_version(folder: Folder) -> None:
    folder.write("gateway.yaml", A + "limits: {on_store_error: share}\n")
    folder.write("teams/voice.yaml", "team: voice\ntier: auto\n")
    assert len(folder.texts()) == 2
    assert folder.texts("demo") == []


def test_a_file_in_the_place_of_the_folder_is_told_its_folder(folder: Folder) -> None:
    folder.root = folder.root / "gateway.yaml"
    assert folder.texts() == ["config/gateway.yaml: is a file; name the folder, here config"]


def test_a_folder_that_is_not_there_is_named(folder: Folder) -> None:
    folder.root = folder.root / "nowhere"
    assert folder.texts() == ["config/nowhere: there is no such folder; `gateway init` makes one"]
