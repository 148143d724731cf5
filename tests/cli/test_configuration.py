"""init, check, keys, serve on a bad configuration, models: what operators do before and beside serving."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger.sqlite import SqliteLedger

KEY = re.compile(r"gk-[a-z]+-[0-9a-f]{64}")


def test_from_nothing_to_keys_that_come_and_go(run: Any) -> None:
    made = run("init", "--team", "voice")
    assert made.returncode == 0, made.stderr
    (first,) = KEY.findall(made.stdout)
    assert "OPENAI_API_KEY" in made.stdout
    team_file = Path("config/teams/voice.yaml")
    assert first not in team_file.read_text()
    assert sha256(first.encode()).hexdigest() in team_file.read_text()

    assert run("check").returncode == 0

    created = run("keys", "create", "voice", "--expires", "9998-01-31")
    assert created.returncode == 0, created.stderr
    second = created.stdout.strip()
    assert KEY.fullmatch(second)
    assert sha256(second.encode()).hexdigest() in team_file.read_text()
    team_file.write_text(team_file.read_text().replace("9998-01-31", "2020-01-31"))  # time passes
    assert run("keys", "revoke", "voice", "voice-1").returncode == 0
    listed = json.loads(run("keys", "list", "--json").stdout)["keys"]
    assert [(key["team"], key["id"], key["state"]) for key in listed] == [("voice", "voice-1", "revoked"), ("voice", "voice-2", "expired")]
    assert run("check").returncode == 0


def test_a_second_init_overwrites_nothing_and_prints_no_key(call: Any) -> None:
    call("init")
    before = Path("config/teams/default.yaml").read_bytes()
    again = call("init")
    assert again.exit_code == 0
    assert not KEY.search(again.stdout)
    assert Path("config/teams/default.yaml").read_bytes() == before


def test_init_in_another_folder_says_so_in_its_next_steps(call: Any) -> None:
    assert "gateway serve --config elsewhere" in call("init", "elsewhere").stdout


def test_init_as_json_gives_the_key_to_programs(call: Any) -> None:
    made = json.loads(call("init", "--json").stdout)
    assert KEY.fullmatch(made["key"])
    assert made["written"] == ["config/gateway.yaml", "config/teams/default.yaml"]


def test_init_refuses_a_name_that_is_none(call: Any) -> None:
    refused = call("init", "--team", "No Name")
    assert refused.exit_code == 2
    assert "a name is" in refused.stderr
    assert not Path("config").exists()


def broken(call: Any) -> None:
    call("init")
    team_file = Path("config/teams/default.yaml")
    team_file.write_text(team_file.read_text().replace("tier: auto", "teir: auto"))


def test_check_prints_every_problem_with_its_line(call: Any) -> None:
    broken(call)
    Path("config/gateway.yaml").write_text("workers: many\n")
    checked = call("check")
    assert checked.exit_code == 2
    assert re.search(r"^config/gateway\.yaml:1: workers: ", checked.stdout, re.MULTILINE)
    assert "config/gateway.yaml" in checked.stdout
    assert "accounts: is missing" in checked.stdout
    assert re.search(r"^config/teams/default\.yaml:2: teir: unknown key.*did you mean 'tier'\?$", checked.stdout, re.MULTILINE)
    assert re.search(r"^config: 3 errors, ", checked.stdout, re.MULTILINE)


def test_check_as_json(call: Any) -> None:
    broken(call)
    checked = call("check", "--json")
    assert checked.exit_code == 2
    found = json.loads(checked.stdout)
    assert found["ok"] is False
    assert [(problem["file"], problem["line"], problem["key"]) for problem in found["problems"] if problem["severity"] == "error"] == [
        ("config/teams/default.yaml", 2, "teir")
    ]


def test_warnings_alone_leave_check_at_zero(call: Any) -> None:
    call("init")
    checked = call("check")
    assert checked.exit_code == 0
    assert "warning: accounts.openai.api_key: there is no key" in checked.stdout


def test_check_of_a_file_names_its_folder(call: Any) -> None:
    call("init")
    checked = call("check", "config/gateway.yaml")
    assert checked.exit_code == 2
    assert "name the folder, here config" in checked.stdout


def test_init_says_nothing_of_what_its_own_file_says(call: Any) -> None:
    made = call("init")
    assert "tier" not in made.stderr
    assert "does not rise" in Path("config/teams/default.yaml").read_text()


def test_check_of_no_folder_says_what_to_do(call: Any) -> None:
    checked = call("check", "nowhere")
    assert checked.exit_code == 2
    assert "gateway init" in checked.stdout


def test_serve_with_problems_prints_them_and_does_not_start(run: Any, call: Any) -> None:
    broken(call)
    served = run("serve", OPENAI_API_KEY="sk-test")
    assert served.returncode == 2
    assert served.stdout == ""
    assert "config/teams/default.yaml:2: teir: unknown key" in served.stderr
    assert "Traceback" not in served.stderr


def test_serve_without_an_account_key_is_refused(run: Any, call: Any) -> None:
    call("init")
    served = run("serve")
    assert served.returncode == 2
    assert "set OPENAI_API_KEY in the environment" in served.stderr


REFUSED = {
    "a team that is not there": (("keys", "create", "nobody"), "teams there: default"),
    "a key id that is taken": (("keys", "create", "default", "--id", "default-1"), "already"),
    "an expiry that is no time": (("keys", "create", "default", "--expires", "soon"), "a date"),
    "an expiry that is past": (("keys", "create", "default", "--expires", "2020-01-31"), "2020-01-31 is past"),
    "a usage source that is none": (
        ("entries", "--usage-source", "foo"),
        "'foo' is none; there are reported, estimated, unknown, not_billed",
    ),
    "an outcome that is none": (("entries", "--outcome", "foo"), "'foo' is none; there are ok, client_error, upstream_error,"),
    "a file for the folder": (("usage", "--config", "config/gateway.yaml"), "config/gateway.yaml is a file; name the folder, here config"),
    "revoking a key that is not there": (("keys", "revoke", "default", "nope"), "no key 'nope'"),
    "listing a team that is not there": (("keys", "list", "nobody"), "there is no team 'nobody'"),
    "a tier that is not there": (("models", "--tier", "gold"), "tiers: free, tier-1"),
    "a model that is not there": (("models", "show", "gpt-4p"), "did you mean gpt-4o?"),
    "an option that is none": (("usage", "--form", "yes"), "No such option"),
}


@pytest.mark.parametrize(("arguments", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_usage_is_told_in_a_sentence(call: Any, arguments: tuple[str, ...], said: str) -> None:
    call("init")
    before = Path("config/teams/default.yaml").read_bytes()
    refused = call(*arguments)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert refused.stdout == ""
    assert Path("config/teams/default.yaml").read_bytes() == before


def test_a_key_can_be_revoked_while_other_files_are_broken(call: Any) -> None:
    call("init")
    Path("config/teams/other.yaml").write_text("teem: [")
    assert call("keys", "revoke", "default", "default-1").exit_code == 0
    assert "revoked: true" in Path("config/teams/default.yaml").read_text()


def test_a_team_is_found_by_its_name_and_not_by_its_files(call: Any) -> None:
    call("init")
    Path("config/teams/default.yaml").rename("config/teams/a.yaml")
    assert call("keys", "create", "default").exit_code == 0
    assert "default-2" in Path("config/teams/a.yaml").read_text()


def test_models_need_no_configuration(call: Any) -> None:
    lines = call("models").stdout.splitlines()
    assert lines[0].split("\t") == ["model", "unit", "input", "cached", "output", "rpm", "rpd", "tpm"]
    assert "gpt-4o-realtime-preview\t1M text tokens\t5.00\t2.50\t20.00\t200\t1000\t40000" in lines


def test_a_tier_that_may_not_use_a_model_is_shown_as_no(call: Any) -> None:
    lines = call("models", "--tier", "free").stdout.splitlines()
    assert "gpt-4o-realtime-preview\t1M text tokens\t5.00\t2.50\t20.00\tno\tno\tno" in lines


def test_one_card_by_any_of_its_names(call: Any) -> None:
    shown = call("models", "show", "gpt-4o-realtime-preview-2024-12-17").stdout
    for said in (
        "gpt-4o-realtime-preview@2024-10-01", "source       model card GPT-4o Realtime", "32,000 tokens", "4,096 tokens", "2023-10-01",
        "output_audio               $80.00 / 1M tokens", "tier-1       rpm 200  rpd 1000  tpm 40000", "image not supported",
    ):  # fmt: skip
        assert said in shown
    as_json = json.loads(call("models", "show", "gpt-4o-realtime-preview", "--json").stdout)
    assert as_json["prices"][0]["picousd_each"]["standard"]["output_audio"] == "80000000"


def test_prices_per_minute_and_by_the_piece_are_shown_in_their_unit(call: Any) -> None:
    assert "$0.006 / minute" in call("models", "show", "whisper-1").stdout
    assert "$10.00 / 1,000 calls" in call("models", "show", "gpt-4o").stdout


APPLICATIONS = {"OPENAI_BASE_URL": "http://127.0.0.1:8080/v1", "OPENAI_API_KEY": "gk-default-x"}  # as the README exports them


@pytest.mark.parametrize("command", [("models",), ("keys", "list"), ("usage",), ("entries",), ("limits",)], ids=" ".join)
def test_a_shell_of_applications_may_read(call: Any, home: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    call("init")
    file = Path("config/gateway.yaml")
    file.write_text(file.read_text().replace("127.0.0.1:9091", f"unix:{home.name}.sock"))  # no gateway's: this test asks none
    SqliteLedger(home / "var" / "ledger.db").close()
    for name, value in APPLICATIONS.items():
        monkeypatch.setenv(name, value)
    done = call(*command)
    assert "own address" not in done.stderr
    if command == ("limits",):
        assert "no gateway answers at unix:" in done.stderr
    else:
        assert (done.exit_code, done.stderr) == (0, "")


def test_what_sends_calls_is_refused_where_the_shell_is_an_applications(run: Any, call: Any) -> None:
    call("init")
    said = (
        "is this gateway's own address (proxy.listen), so no call would ever reach OpenAI; OPENAI_BASE_URL of this shell is meant "
        "for applications, unset it for the gateway, found 'http://127.0.0.1:8080/v1'"
    )
    served, checked = run("serve", **APPLICATIONS), run("check", **APPLICATIONS)
    assert (served.returncode, checked.returncode) == (2, 2)
    assert f"accounts.openai.base_url: {said}\n" in served.stderr
    assert f"accounts.openai.base_url: {said}\n" in checked.stdout
