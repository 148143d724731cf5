"""Loading again: only what changed is read, and a bad file changes nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.config.files import read_bytes
from gateway.config.load import Loaded, NotLoaded, load
from gateway.config.watch import TICK_NS, changed_since, pause_after_s, stamps_of

if TYPE_CHECKING:
    from conftest import Folder

FILES = ["config/gateway.yaml", "config/tiers.yaml", "config/models/gpt-4o.yaml", "config/teams/voice.yaml"]


def test_only_changed_files_are_read_again(folder: Folder) -> None:
    first = folder.good()
    assert folder.reads == FILES
    second = folder.good(first)
    assert folder.reads == []
    assert second.teams == first.teams
    folder.write("teams/voice.yaml", "team: voice\nmode: shadow\n")
    third = folder.good(second)
    assert folder.reads == ["config/teams/voice.yaml"]
    assert third.teams[0].mode == "shadow"


def test_a_file_that_was_touched_is_read_and_not_checked_again(folder: Folder) -> None:
    first = folder.good()
    os.utime(folder.root / "teams" / "voice.yaml", ns=(1, 1))
    second = folder.good(first)
    assert folder.reads == ["config/teams/voice.yaml"]
    assert second.files["config/teams/voice.yaml"].value is first.files["config/teams/voice.yaml"].value
    folder.good(second)
    assert folder.reads == []


def test_a_new_file_is_read_and_a_removed_one_is_forgotten(folder: Folder) -> None:
    first = folder.good()
    folder.write("teams/w.yaml", "team: w\n")
    second = folder.good(first)
    assert folder.reads == ["config/teams/w.yaml"]
    assert [team.name for team in second.teams] == ["voice", "w"]
    (folder.root / "teams" / "voice.yaml").unlink()
    third = folder.good(second)
    assert [team.name for team in third.teams] == ["w"]
    assert "config/teams/voice.yaml" not in third.files


def test_a_variable_that_changed_makes_its_file_new(folder: Folder) -> None:
    folder.env = {"MODE": "shadow", "OTHER": "1"}
    folder.write("teams/voice.yaml", "team: voice\nmode: ${MODE}\n")
    first = folder.good()
    folder.env = {"MODE": "shadow", "OTHER": "2"}
    assert folder.good(first).teams[0].mode == "shadow"
    assert folder.reads == []
    folder.env = {"MODE": "enforce"}
    assert folder.good(first).teams[0].mode == "enforce"
    assert folder.reads == ["config/teams/voice.yaml"]


def test_a_secret_in_a_file_is_read_each_time(folder: Folder) -> None:
    folder.write("key", "sk-1\n")
    folder.write("gateway.yaml", "accounts: {openai: {api_key: file:config/key}}\n")
    first = folder.good()
    folder.write("key", "sk-2\n")
    second = folder.good(first)
    assert folder.reads == ["config/key"]
    assert second.settings.accounts[0].api_key.value == "sk-2"


def test_a_good_reload_after_a_bad_one(folder: Folder) -> None:
    first = folder.good()
    folder.write("teams/voice.yaml", "team: voice\nmode: off\n")
    for _ in range(2):  # and it stays bad
        bad = folder.load(first)
        assert isinstance(bad, list)
        assert folder.reads == ["config/teams/voice.yaml"]
    folder.write("teams/voice.yaml", "team: voice\nmode: shadow\n")
    assert folder.good(first).teams[0].mode == "shadow"
    assert folder.reads == ["config/teams/voice.yaml"]


def test_an_unchanged_team_is_held_against_what_changed_around_it(folder: Folder) -> None:
    first = folder.good()
    folder.write("models/gpt-4o.yaml", "model: gpt-5o\n")
    bad = folder.load(first)
    assert isinstance(bad, list)
    assert [problem.text() for problem in bad] == [
        "config/teams/voice.yaml:3: models[0]: no such model, found 'gpt-4o'; did you mean 'gpt-5o'?"
    ]


def test_ten_thousand_teams_and_one_that_changes(folder: Folder) -> None:
    for number in range(10_000):
        key = f'{{id: k, hash: "sha256:{number:064x}"}}'
        folder.write(f"teams/t{number:04}.yaml", f"team: t{number:04}\nkeys: [{key}]\nmodels: [gpt-4o]\nlimits: {{gpt-4o: {{rpm: 9}}}}\n")
    first = folder.good()
    assert len(first.teams) == 10_001
    folder.write("teams/t0777.yaml", "team: t0777\nmode: shadow\n")
    second = folder.good(first)
    assert folder.reads == ["config/teams/t0777.yaml"]
    assert [team.name for team in second.teams if team.mode == "shadow"] == ["t0777"]


def test_watching_sees_what_was_written_added_and_removed_and_nothing_else(folder: Folder) -> None:
    secret = folder.write("key", "sk-1")
    loaded = folder.good()
    also = (*loaded.named_files, secret)
    before = stamps_of(folder.root, also)
    folder.write("README.md", "x")
    folder.write("teams/.voice.yaml.tmp", "x")
    folder.write("schemas/team.json", "x")
    assert changed_since(before, stamps_of(folder.root, also)) == []
    folder.write("teams/voice.yaml", "team: voice2\n")
    folder.write("teams/w.yml", "")
    (folder.root / "models" / "gpt-4o.yaml").unlink()
    os.replace(folder.write("new-key", "sk-2"), secret)
    assert changed_since(before, stamps_of(folder.root, also)) == [
        "config/key",
        "config/models/gpt-4o.yaml",
        "config/teams/voice.yaml",
        "config/teams/w.yml",
    ]


def test_what_was_loaded_knows_its_own_stamps(folder: Folder) -> None:
    folder.write("key", "sk-1\n")
    folder.write("gateway.yaml", "accounts: {openai: {api_key: file:config/key}}\n")
    loaded = folder.good()
    assert isinstance(loaded, Loaded)
    assert loaded.named_files == (Path("config/key"),)
    assert changed_since(loaded.stamps, stamps_of(folder.root, loaded.named_files)) == []
    folder.write("key", "sk-two\n")
    assert changed_since(loaded.stamps, stamps_of(folder.root, loaded.named_files)) == ["config/key"]


@pytest.mark.parametrize("named", ["./config/key", "config//key", "config/teams/../key"])
def test_however_a_file_is_named_it_changes_only_when_it_does(folder: Folder, named: str) -> None:
    folder.write("key", "sk-1\n")
    folder.write("gateway.yaml", f"accounts: {{openai: {{api_key: 'file:{named}'}}}}\n")
    loaded = folder.good()
    assert changed_since(loaded.stamps, stamps_of(folder.root, loaded.named_files)) == []
    folder.write("key", "sk-two\n")
    assert len(changed_since(loaded.stamps, stamps_of(folder.root, loaded.named_files))) == 1


def test_a_file_that_is_named_and_bad_is_watched_until_it_is_mended(folder: Folder, pem: Mapping[str, bytes]) -> None:
    folder.write("ca.pem", "no certificate")
    folder.write("gateway.yaml", "accounts: {openai: {api_key: x, ca_file: ./config/ca.pem}}\n")
    bad = folder.load()
    assert isinstance(bad, NotLoaded)
    assert changed_since(bad.stamps, stamps_of(folder.root, bad.named_files)) == []
    folder.write("ca.pem", pem["ours.crt"])
    assert changed_since(bad.stamps, stamps_of(folder.root, bad.named_files)) == ["config/ca.pem"]
    folder.good()


def test_a_folder_that_is_not_there_is_watched_too(folder: Folder) -> None:
    folder.root.rename("elsewhere")
    bad = folder.load()
    assert isinstance(bad, NotLoaded)
    assert changed_since(bad.stamps, stamps_of(folder.root, bad.named_files)) == []
    Path("elsewhere").rename(folder.root)
    assert changed_since(bad.stamps, stamps_of(folder.root, bad.named_files)) != []


SHADOW = "team: voice\nmode: shadow\n"
LEARNS = "team: voice\nmode: enforce"  # of the same size
assert len(SHADOW) == len(LEARNS)


def _in_place(file: Path) -> None:
    file.write_text(SHADOW)


def _in_place_and_dated_back(file: Path) -> None:
    before = file.stat()
    file.write_text(SHADOW)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replaced_and_dated_alike(file: Path) -> None:
    before, other = file.stat(), file.with_suffix(".tmp")
    other.write_text(SHADOW)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, file)


def _removed_and_written_anew(file: Path) -> None:
    file.unlink()
    file.write_text(SHADOW)


def _replaced_by_a_link(file: Path) -> None:
    Path("elsewhere.yaml").write_text(SHADOW)
    file.unlink()
    file.symlink_to(Path("elsewhere.yaml").resolve())


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_in_place, id="written in place"),
        pytest.param(_in_place_and_dated_back, id="written in place, its date as before"),
        pytest.param(_replaced_and_dated_alike, id="replaced by rename, of the same date"),
        pytest.param(_removed_and_written_anew, id="removed and written anew"),
        pytest.param(_replaced_by_a_link, id="replaced by a link"),
    ],
)
def test_a_change_of_the_same_size_right_after_a_load_is_seen(folder: Folder, change: Callable[[Path], None]) -> None:
    file = folder.write("teams/voice.yaml", LEARNS)
    loaded = folder.good()
    change(file)
    assert changed_since(loaded.stamps, stamps_of(folder.root)) == ["config/teams/voice.yaml"]
    assert folder.good(loaded).teams[0].mode == "shadow"


def _mounted(folder: Folder, text: str, number: int) -> None:
    """As Kubernetes mounts a ConfigMap: files are links through `..data`, and a change is another folder behind that link."""
    teams, version = folder.root / "teams", f"..version_{number}"
    folder.write(f"teams/{version}/voice.yaml", text)
    (teams / "..data_new").symlink_to(version)
    os.replace(teams / "..data_new", teams / "..data")


def test_a_mounted_folder_that_is_swapped_behind_its_link_is_seen(folder: Folder) -> None:
    (folder.root / "teams" / "voice.yaml").unlink()
    _mounted(folder, LEARNS, 1)
    (folder.root / "teams" / "voice.yaml").symlink_to("..data/voice.yaml")
    loaded = folder.good()
    assert changed_since(loaded.stamps, stamps_of(folder.root)) == []
    _mounted(folder, SHADOW, 2)
    assert changed_since(loaded.stamps, stamps_of(folder.root)) == ["config/teams/voice.yaml"]
    assert folder.good(loaded).teams[0].mode == "shadow"


def test_a_whole_configuration_that_is_swapped_behind_its_link_is_seen(folder: Folder) -> None:
    folder.root.rename("release-1")
    folder.root.symlink_to("release-1")
    loaded = folder.good()
    shutil.copytree("release-1", "release-2", copy_function=shutil.copy2)  # with their dates
    Path("release-2", "teams", "voice.yaml").write_text(SHADOW)
    Path("new").symlink_to("release-2")
    os.replace("new", folder.root)
    assert "config/teams/voice.yaml" in changed_since(loaded.stamps, stamps_of(folder.root))
    assert folder.good(loaded).teams[0].mode == "shadow"


def test_no_file_is_read_in_the_tick_of_the_clock_that_it_was_written_in(folder: Folder) -> None:
    """Another write in that tick would leave its stamp as it is."""
    folder.write("key", "sk-1\n")
    folder.write("gateway.yaml", "accounts: {openai: {api_key: file:config/key}}\n")
    ages_ns: dict[str, int] = {}

    def read(path: Path) -> bytes:
        ages_ns[str(path)] = time.time_ns() - path.stat().st_ctime_ns
        return read_bytes(path)

    folder.write("teams/voice.yaml", LEARNS)
    assert isinstance(load(folder.root, {}, shipped=Path("shipped"), read=read), Loaded)
    assert set(ages_ns) == {*FILES, "config/key"}
    assert min(ages_ns.values()) >= TICK_NS


@pytest.mark.parametrize(
    ("look_s", "pause_s"),
    [
        pytest.param(0.0, 1.0, id="a look for nothing is taken each second"),
        pytest.param(0.01, 1.0, id="one that takes a hundredth of a second too"),
        pytest.param(0.03, 3.0, id="one of 10,000 files takes one percent of a core"),
        pytest.param(0.05, 5.0, id="as late as it may be"),
        pytest.param(2.0, 5.0, id="never later than that"),
    ],
)
def test_looks_take_a_hundredth_of_a_core(look_s: float, pause_s: float) -> None:
    assert pause_after_s(look_s) == pytest.approx(pause_s)


@pytest.mark.parametrize("size_bytes", [0, 1, 16_383, 16_384, 16_385, 1_048_576, 1_048_577])
def test_a_file_is_read_whole_up_to_its_bound(tmp_path: Path, size_bytes: int) -> None:
    content = os.urandom(size_bytes)
    (tmp_path / "file").write_bytes(content)
    assert read_bytes(tmp_path / "file") == content


def test_a_file_beyond_its_bound_is_read_one_byte_further_and_not_held(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 40)
    assert len(read_bytes(tmp_path / "file")) == 1_048_577
