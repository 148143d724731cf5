"""`gateway init` and `gateway keys`: what is written loads, and what was there stays."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.config.load import Loaded, load
from gateway.config.problems import Problem
from gateway.config.snapshot import Facts
from gateway.config.write import InitResult, add_key, init_folder, revoke_key
from gateway.teams import key_hash

if TYPE_CHECKING:
    from conftest import Folder

H = "sha256:" + "ab" * 32

EDITED = {
    "a list of flow mappings": (
        f'# top\nteam: voice   # name\nkeys:            # keys\n  - {{id: a, hash: "{H}"}}   # first\n# after\nmodels: ["*"]\n',
        f'# top\nteam: voice   # name\nkeys:            # keys\n  - {{id: a, hash: "{H}"}}   # first\n  - NEW\n# after\nmodels: ["*"]\n',
    ),
    "a list of blocks": (
        f'team: voice\nkeys:\n- id: a\n  hash: "{H}"\n  limits:\n    rpm: 5   # five\n\n# after\nmodels: ["*"]\n',
        f'team: voice\nkeys:\n- id: a\n  hash: "{H}"\n  limits:\n    rpm: 5   # five\n- NEW\n\n# after\nmodels: ["*"]\n',
    ),
    "a flow list": (f'team: voice\nkeys: [{{id: a, hash: "{H}"}}] # x\n', f'team: voice\nkeys: [{{id: a, hash: "{H}"}}, NEW] # x\n'),
    "a flow list with a comma at its end": (
        f'team: voice\nkeys: [\n  {{id: a, hash: "{H}"}},\n]\n',
        f'team: voice\nkeys: [\n  {{id: a, hash: "{H}"}}, NEW,\n]\n',
    ),
    "an empty list": ("team: voice\nkeys: []\nmode: shadow\n", "team: voice\nkeys: [NEW]\nmode: shadow\n"),
    "nothing": ("team: voice\nkeys:   # none\nmode: shadow\n", "team: voice\nkeys: [NEW]   # none\nmode: shadow\n"),
    "a tilde": ("team: voice\nkeys: ~\nmode: shadow\n", "team: voice\nkeys:  [NEW]\nmode: shadow\n"),
    "no keys": ("team: voice\nmode: shadow\n", "team: voice\nmode: shadow\nkeys:\n  - NEW\n"),
    "no newline at the end": ("team: voice", "team: voice\nkeys:\n  - NEW\n"),
    "no newline after the keys": (
        f'team: voice\nkeys:\n- {{id: a, hash: "{H}"}}',
        f'team: voice\nkeys:\n- {{id: a, hash: "{H}"}}\n- NEW\n',
    ),
    "lines of Windows": (
        f'team: voice\r\nkeys:\r\n  - {{id: a, hash: "{H}"}}\r\nmode: shadow\r\n',
        f'team: voice\r\nkeys:\r\n  - {{id: a, hash: "{H}"}}\r\n  - NEW\r\nmode: shadow\r\n',
    ),
    "letters of other alphabets before": (
        f'# Ünïcödé ✓ 🎧\nteam: voice\nkeys: [{{id: a, hash: "{H}"}}]\n',
        f'# Ünïcödé ✓ 🎧\nteam: voice\nkeys: [{{id: a, hash: "{H}"}}, NEW]\n',
    ),
}


@pytest.mark.parametrize("before, after", EDITED.values(), ids=EDITED.keys())
def test_a_new_key_leaves_every_other_byte_as_it_was(folder: Folder, before: str, after: str) -> None:
    file = folder.write("teams/voice.yaml", before)
    api_key = add_key(file, "ci", "2027-01-31")
    assert isinstance(api_key, str)
    assert re.fullmatch(r"gk-voice-[0-9a-f]{64}", api_key)
    entry = f'{{id: "ci", hash: "sha256:{key_hash(api_key.encode())}", expires: "2027-01-31"}}'
    assert file.read_bytes().decode() == after.replace("NEW", entry)
    identity = Facts(folder.good().snapshot(0)).by_key_hash[key_hash(api_key.encode())]
    assert (identity.team.name, identity.key.id, identity.key.expires_at_us) == ("voice", "ci", 1_801_353_600_000_000)


REVOKED = {
    "a flow mapping": (f'keys:\n  - {{id: a, hash: "{H}"}}  # x\n', f'keys:\n  - {{id: a, hash: "{H}", revoked: true}}  # x\n'),
    "a block": (
        f'keys:\n  - id: a\n    hash: "{H}"  # x\n  # y\nmode: shadow\n',
        f'keys:\n  - id: a\n    hash: "{H}"  # x\n    revoked: true\n  # y\nmode: shadow\n',
    ),
    "one that says it is not": (f'keys:\n- {{id: a, revoked: false, hash: "{H}"}}\n', f'keys:\n- {{id: a, revoked: true, hash: "{H}"}}\n'),
    "one that says nothing": (f'keys:\n- id: a\n  hash: "{H}"\n  revoked:\n', f'keys:\n- id: a\n  hash: "{H}"\n  revoked: true\n'),
    "one that is revoked": (f'keys:\n- {{id: a, hash: "{H}", revoked: true}}\n', f'keys:\n- {{id: a, hash: "{H}", revoked: true}}\n'),
}


@pytest.mark.parametrize("before, after", REVOKED.values(), ids=REVOKED.keys())
def test_revoking_marks_the_key_and_nothing_else(folder: Folder, before: str, after: str) -> None:
    file = folder.write("teams/voice.yaml", "team: voice\n" + before)
    assert revoke_key(file, "a") is None
    assert file.read_text() == "team: voice\n" + after
    assert folder.good().teams[0].keys[0].revoked


def test_only_the_key_that_was_named_is_revoked(folder: Folder) -> None:
    file = folder.write("teams/voice.yaml", "team: voice\n")
    for key_id in ("a", "b", "c"):
        assert isinstance(add_key(file, key_id), str)
    assert revoke_key(file, "b") is None
    assert [(key.id, key.revoked) for key in folder.good().teams[0].keys] == [("a", False), ("b", True), ("c", False)]


@pytest.mark.parametrize(
    "text, key_id, said",
    [
        (f'team: voice\nkeys: [{{id: a, hash: "{H}"}}]\n', "a", "config/teams/voice.yaml:2: keys: the team has a key 'a' already"),
        ("{team: voice}\n", "a", "config/teams/voice.yaml:1: keys: is written in a way that cannot be edited"),
        ("team: voice\nmode: shadow\n...\n", "a", "config/teams/voice.yaml:1: keys: is written in a way that cannot be edited"),
        ("tier: auto\n", "a", "config/teams/voice.yaml:1: keys: is not a team's file"),
        ("team: ${TEAM}\n", "a", "config/teams/voice.yaml:1: keys: is not a team's file"),
        ("team: [\n", "a", "config/teams/voice.yaml:2: is not valid YAML"),
        ("team: voice\n", "A B", "config/teams/voice.yaml: keys: a name is 1 to 63"),
    ],
)
def test_what_cannot_be_added_is_told_and_nothing_is_written(folder: Folder, text: str, key_id: str, said: str) -> None:
    file = folder.write("teams/voice.yaml", text)
    problem = add_key(file, key_id)
    assert isinstance(problem, Problem)
    assert problem.text().startswith(said.replace("config", str(folder.root.resolve()))) or problem.text().startswith(said)
    assert file.read_text() == text


def test_a_key_that_is_not_there_cannot_be_revoked(folder: Folder) -> None:
    file = folder.root / "teams" / "voice.yaml"
    problem = revoke_key(file, "a")
    assert isinstance(problem, Problem)
    assert problem.message == "the team has no key 'a'"
    missing = revoke_key(folder.root / "teams" / "nobody.yaml", "a")
    assert isinstance(missing, Problem)
    assert missing.text() == "config/teams/nobody.yaml: cannot be written: No such file or directory"


def test_an_expiry_without_its_zone_is_refused(folder: Folder) -> None:
    assert isinstance(add_key(folder.root / "teams" / "voice.yaml", "ci", "2027-01-31T18:00:00"), Problem)


def test_an_edited_file_keeps_its_mode_and_leaves_nothing_beside_it(folder: Folder) -> None:
    file = folder.root / "teams" / "voice.yaml"
    file.chmod(0o640)
    link = folder.root / "teams" / "link.yaml"
    file.rename(folder.root / "real.yaml")
    link.symlink_to("../real.yaml")
    assert isinstance(add_key(link, "ci"), str)
    assert link.is_symlink()
    assert stat.S_IMODE((folder.root / "real.yaml").stat().st_mode) == 0o640
    assert sorted(path.name for path in folder.root.iterdir() if path.is_file()) == ["gateway.yaml", "real.yaml", "tiers.yaml"]


def test_init_writes_what_serves_as_soon_as_the_key_is_set(tmp_path: Path) -> None:
    made = init_folder(tmp_path / "config", "my-team", env={})
    assert isinstance(made, InitResult)
    assert made.written == (tmp_path / "config" / "gateway.yaml", tmp_path / "config" / "teams" / "my-team.yaml")
    assert {stat.S_IMODE(path.stat().st_mode) for path in made.written} == {0o600}
    assert [problem.key for problem in made.problems] == ["accounts.openai.api_key", "tier"]
    assert made.api_key is not None
    assert not any(made.api_key in path.read_text() for path in made.written)
    loaded = load(tmp_path / "config", {"OPENAI_API_KEY": "sk-x"}, purpose="serve")
    assert isinstance(loaded, Loaded)
    assert [warning.key for warning in loaded.warnings] == ["tier"]  # it is `auto`, and the file says what that means
    facts = Facts(loaded.snapshot(0))
    assert facts.by_key_hash[key_hash(made.api_key.encode())].team.name == "my-team"
    assert facts.tiers["my-team"] == "tier-1"
    assert facts.cards["gpt-4o"].limits["tier-1"].rpm


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    first = init_folder(tmp_path, "a", env={})
    texts = {path: path.read_text() for path in tmp_path.rglob("*.yaml")}
    second, third = init_folder(tmp_path, "a", env={}), init_folder(tmp_path, "1", env={})
    assert isinstance(first, InitResult)
    assert isinstance(second, InitResult)
    assert isinstance(third, InitResult)
    assert (second.api_key, second.written, second.kept) == (None, (), first.written)
    assert third.written == (tmp_path / "teams" / "1.yaml",)
    assert {path: path.read_text() for path in texts} == texts
    assert isinstance(load(tmp_path, {}), Loaded)


def test_init_refuses_a_name_that_is_none(tmp_path: Path) -> None:
    assert isinstance(init_folder(tmp_path, "../x", env={}), Problem)
    assert list(tmp_path.iterdir()) == []
