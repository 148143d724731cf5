"""serve, simulator, limits and keys together, each a process as users start it."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

TIMEOUT_S = 30
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


def free_port() -> int:
    """A port that was free a moment ago: `limits` must find in the file where the gateway listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def post(url: str, key: str) -> int:
    """Status of one chat call."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(BODY).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.read()
        error.close()
        return int(error.code)


def configured(call: Any, base_url: str) -> str:
    """A folder whose account is the simulator; the first team's key."""
    made = json.loads(call("init", "--json").stdout)
    file = Path("config/gateway.yaml")
    text = file.read_text().replace("127.0.0.1:8080", "127.0.0.1:0", 1).replace("127.0.0.1:9091", f"127.0.0.1:{free_port()}")
    file.write_text(text.replace("${OPENAI_BASE_URL:-https://api.openai.com/v1}", base_url))
    with Path("config/teams/default.yaml").open("a") as team:
        team.write("limits_all_models: {rpd: 1000}\n")  # of a day: what is used stays used for more than a minute
    return str(made["key"])


def test_a_call_goes_through_is_limited_and_is_in_the_ledger(start: Any, run: Any, call: Any) -> None:
    simulator = start("simulator", "--listen", "127.0.0.1:0", "--journal", "account.jsonl", "--api-key", "sk-account")
    base_url = simulator.line("simulator: listening on ").rpartition(" ")[2]
    key = configured(call, base_url)
    gateway = start("serve", OPENAI_API_KEY="sk-account")
    ready = re.fullmatch(r"gateway: ready on (http://127\.0\.0\.1:\d+) \(admin (http://127\.0\.0\.1:\d+)\)", gateway.line("gateway:"))
    assert ready is not None

    assert post(ready[1], key) == 200
    assert post(ready[1], "gk-default-wrong") == 401

    limits = json.loads(run("limits", "default", "--json").stdout)["limits"]
    (requests,) = [reading for reading in limits if reading["kind"] == "rpd"]
    assert (requests["team"], requests["used_units"], requests["capacity_units"]) == ("default", 1, 1000)
    lines = run("limits", "default").stdout.splitlines()
    assert lines[0].split("\t") == ["team", "scope", "subject", "kind", "used", "limit", "remaining", "full_again_in"]
    unknown = run("limits", "nobody")
    assert unknown.returncode == 2
    assert "there is no team 'nobody'" in unknown.stderr

    status, out, err = gateway.end()
    assert (status, out) == (0, ""), err
    (entry,) = [json.loads(line) for line in run("entries").stdout.splitlines()]
    (served,) = [json.loads(line) for line in Path("account.jsonl").read_text().splitlines()]
    assert (entry["team"], entry["key"], entry["usage_source"]) == ("default", "default-1", "reported")
    assert entry["cost_picousd"] == served["cost_picousd"] > 0
    assert simulator.end()[0] == 0


def test_limits_of_a_gateway_that_does_not_run_are_told_so(run: Any, call: Any) -> None:
    configured(call, "http://127.0.0.1:1/v1")
    asked = run("limits", "default")
    assert asked.returncode == 1
    assert asked.stderr.startswith("gateway: no gateway answers at http://127.0.0.1:")
    assert "gateway serve" in asked.stderr


def test_limits_without_the_admin_token_says_which_variable_to_set(start: Any, run: Any, call: Any) -> None:
    configured(call, "http://127.0.0.1:1/v1")
    gateway = start("serve", GATEWAY_ADMIN_TOKEN="adm-right")
    gateway.line("gateway: ready on ")
    assert run("limits", GATEWAY_ADMIN_TOKEN="adm-right").returncode == 0
    for given, wanted in (({}, "its admin token, and none is given"), ({"GATEWAY_ADMIN_TOKEN": "adm-wrong"}, "another token than the one")):
        asked = run("limits", **given)
        assert (asked.returncode, asked.stdout) == (1, "")
        assert asked.stderr.startswith(f"gateway: the gateway wants {wanted}")
        assert "set GATEWAY_ADMIN_TOKEN in this shell" in asked.stderr
    assert gateway.end()[0] == 0


def test_limits_cannot_be_asked_at_port_0(call: Any) -> None:
    configured(call, "http://127.0.0.1:1/v1")
    file = Path("config/gateway.yaml")
    file.write_text(re.sub(r"(?m)^(admin:\n  listen:) .*$", r"\1 127.0.0.1:0", file.read_text()))
    asked = call("limits", "default")
    assert asked.exit_code == 2
    assert "give it a port" in asked.stderr


def test_an_address_that_is_taken_is_told_without_a_traceback(run: Any, call: Any) -> None:
    configured(call, "http://127.0.0.1:1/v1")
    file = Path("config/gateway.yaml")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        file.write_text(file.read_text().replace("127.0.0.1:0", f"127.0.0.1:{taken.getsockname()[1]}", 1))
        served = run("serve")
    assert served.returncode == 1
    assert "Change `listen` in gateway.yaml" in served.stderr
    assert "Traceback" not in served.stderr


def test_a_simulator_that_cannot_listen_says_why(run: Any) -> None:
    wrong = run("simulator", "--listen", "8080")
    assert (wrong.returncode, wrong.stderr) == (2, "gateway: --listen: '8080' is not HOST:PORT\n")
    away = run("simulator", "--listen", "127.0.0.1:0", "--journal", "no/such/folder/account.jsonl")
    assert away.returncode == 1
    assert away.stderr.startswith("gateway: the simulator cannot start: ")
