"""Good files: what they become. The examples load unchanged, always."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from gateway.config.load import Loaded, load
from gateway.config.settings import Purpose
from gateway.config.shipped import shipped_folder
from gateway.config.snapshot import Account, Facts, Listen, Secret, Snapshot, Tier, decode_snapshot, encode_snapshot
from gateway.teams import Budget, Key, RealtimeCaps, Team
from gateway.units import Limits

if TYPE_CHECKING:
    from conftest import Folder

EXAMPLE = Path(__file__).parent / "example"
USD = 10**12


def loaded_example(purpose: Purpose = "check", **env: str) -> Loaded:
    loaded = load(EXAMPLE, env, purpose=purpose)
    assert isinstance(loaded, Loaded), [problem.text() for problem in loaded]
    return loaded


def test_the_example_becomes_teams_as_they_are_written() -> None:
    search, voice = loaded_example().teams
    assert voice == Team(
        name="voice",
        tier="tier-1",
        keys=(Key("voice-dev", "a50ee41f8b7e0ae23721459d9a5afe26b13af4b8573fe979a0280d4623485ff1"),),
        models=("gpt-4o-realtime-preview", "gpt-4o"),
        budget=Budget(500 * USD, 40 * USD, (50, 80)),
        realtime=RealtimeCaps(20, 1800, 5 * USD),
    )
    assert (search.tier, search.models, search.limits) == ("auto", ("*",), {"gpt-4o": Limits(rpm=100)})


def test_the_example_becomes_settings_with_defaults_for_all_else() -> None:
    settings = loaded_example(OPENAI_API_KEY="sk-x", GATEWAY_ADMIN_TOKEN="t").settings
    assert settings.accounts == (Account("openai", "https://api.openai.com/v1", Secret("sk-x"), tier="tier-5"),)
    assert settings.proxy.listen == (Listen("127.0.0.1", 8080),)
    assert (settings.admin.listen, settings.admin.token) == (Listen("127.0.0.1", 9091), Secret("t"))
    assert (settings.workers, settings.store_url, settings.on_store_error) == (1, "memory", "share")
    assert (settings.journal_folder, settings.ledger_url) == ("var/journal", "sqlite:var/ledger.db")


def test_defaults_are_those_of_the_snapshot(folder: Folder) -> None:
    settings = folder.good().settings
    assert settings == msgspec.convert(msgspec.to_builtins(settings), type(settings))
    proxy, account = settings.proxy, settings.accounts[0]
    assert proxy == type(proxy)(listen=(Listen("127.0.0.1", 8080),))
    assert account == Account("openai", "https://api.openai.com/v1", Secret("sk-upstream"))
    assert settings == type(settings)(proxy=proxy, admin=settings.admin, accounts=(account,))


def test_the_example_becomes_tiers_lowest_first() -> None:
    loaded = loaded_example()
    assert loaded.start_tier == "tier-1"
    assert [tier.name for tier in loaded.tiers] == ["free", "tier-1", "tier-2", "tier-3", "tier-4", "tier-5"]
    assert loaded.tiers[2] == Tier("tier-2", 50 * USD, days=7)
    assert loaded.catalogue.default_limits["tier-1"] == Limits(rpm=500, tpm=200_000)


def test_a_card_of_ones_own_replaces_the_shipped_one_and_the_others_stay() -> None:
    shipped, own = shipped_cards(), {card.model: card for card in loaded_example().catalogue.cards}
    assert own.keys() == shipped.keys()
    assert own["gpt-4o"].prices[0].source == "price table of reference/usage-and-pricing.md"
    assert own["o3"] == shipped["o3"]


def shipped_cards() -> dict[str, object]:
    loaded = load(shipped_folder(), {})
    assert isinstance(loaded, Loaded), [problem.text() for problem in loaded]
    return {card.model: card for card in loaded.catalogue.cards}


@pytest.mark.parametrize("where", [EXAMPLE, shipped_folder()], ids=["example", "config"])
def test_the_examples_pass_check_demo_and_not_serve(where: Path) -> None:
    for purpose, good in (("check", True), ("demo", True), ("serve", False)):
        assert isinstance(load(where, {"OPENAI_API_KEY": "sk-x"}, purpose=purpose), Loaded) is good  # type: ignore[arg-type]
    refused = load(where, {"OPENAI_API_KEY": "sk-x"}, purpose="serve")
    assert isinstance(refused, list)
    assert {problem.key for problem in refused if problem.severity == "error"} == {"keys[0].hash"}


def test_the_keys_printed_in_the_example_are_those_that_are_refused() -> None:
    for file, team in zip(("search", "voice"), loaded_example().teams, strict=True):
        printed = (EXAMPLE / "teams" / f"{file}.yaml").read_text().split("the key of this example: ")[1].split()[0]
        assert team.keys[0].hash == sha256(printed.encode()).hexdigest()


def test_without_shipped_cards_only_ones_own_are_there(folder: Folder) -> None:
    card = "model: {}\nlimits: {{no-such-tier-here: {{rpm: 1}}}}\n"
    Path("shipped/models").mkdir()
    Path("shipped/models/gpt-4o.yaml").write_text(card.format("gpt-4o"))
    Path("shipped/models/o1.yaml").write_text(card.format("o1"))
    assert [card.model for card in folder.good().catalogue.cards] == ["gpt-4o", "o1"]
    folder.write("gateway.yaml", (folder.root / "gateway.yaml").read_text() + "shipped_cards: false\n")
    assert [card.model for card in folder.good().catalogue.cards] == ["gpt-4o"]


def test_shipped_tiers_stand_in_for_a_missing_file(folder: Folder) -> None:
    (folder.root / "tiers.yaml").rename("shipped/tiers.yaml")
    assert folder.good().start_tier == "tier-1"


def test_a_team_file_may_say_everything(folder: Folder) -> None:
    folder.write(
        "teams/voice.yaml",
        f"""\
team: voice
tier: tier-2
keys:
  - {{id: a, hash: "sha256:{"0a" * 32}", expires: 2027-01-31, revoked: true, limits: {{rpm: 5}}, budget: {{day_usd: "0.000000000001"}}}}
  - {{id: b, hash: "sha256:{"0b" * 32}", expires: 2027-01-31T18:00:00.5+02:00}}
  - {{id: c, hash: "sha256:{"0c" * 32}", expires: "2027-01-31T18:00:00Z"}}
models: ["gpt-4o-2024-08-06"]
limits: {{gpt-4o-2024-08-06: {{rpm: 3, rpd: 25000000}}}}
limits_all_models: {{tpm: 1000}}
budget: {{month_usd: "9000000", soft: [1, 0.5, 0.07]}}
account: openai
on_client_gone: drain
drain_seconds_max: 7
unknown_model: {{price_as: gpt-4o}}
unmetered_paths: allow
estimate: openai
mode: shadow
days: calendar
""",
    )

    def us(*when: int) -> int:
        return int(datetime(*when, tzinfo=UTC).timestamp()) * 1_000_000  # type: ignore[arg-type]

    assert folder.good().teams == (
        Team(
            name="voice",
            tier="tier-2",
            keys=(
                Key("a", "0a" * 32, us(2027, 1, 31), revoked=True, limits=Limits(rpm=5), budget=Budget(day_picousd=1)),
                Key("b", "0b" * 32, us(2027, 1, 31, 16) + 500_000),
                Key("c", "0c" * 32, us(2027, 1, 31, 18)),
            ),
            models=("gpt-4o-2024-08-06",),
            limits={"gpt-4o": Limits(rpm=3, rpd=25_000_000)},  # by the card's model
            limits_all_models=Limits(tpm=1000),
            budget=Budget(month_picousd=9_000_000 * USD, soft_percent=(7, 50, 100)),
            account="openai",
            on_client_gone="drain",
            drain_seconds_max=7,
            unknown_model="price_as",
            price_unknown_as="gpt-4o",
            unmetered_paths="allow",
            estimate="openai",
            mode="shadow",
            days="calendar",
        ),
    )


def test_a_team_may_limit_a_group_and_not_use_it_as_a_model(folder: Folder) -> None:
    folder.write("models/o1.yaml", "model: o1\nlimit_group: reasoners\n")
    folder.write("teams/voice.yaml", "team: voice\nlimits: {reasoners: {rpm: 1}, gpt-4o-2024-08-06: {rpm: 2}}\n")
    assert folder.good().teams[0].limits == {"reasoners": Limits(rpm=1), "gpt-4o": Limits(rpm=2)}
    folder.write("teams/voice.yaml", "team: voice\nmodels: [reasoners]\n")
    assert folder.texts() == ["config/teams/voice.yaml:2: models[0]: no such model, found 'reasoners'"]


@pytest.mark.parametrize(
    "written, listen",
    [
        ("127.0.0.1:0", Listen("127.0.0.1", 0)),
        ('"[::1]:65535"', Listen("::1", 65_535)),
        ("localhost:8080", Listen("localhost", 8080)),
        ("unix:/run/gw.sock", Listen("", 0, "/run/gw.sock")),
    ],
)
def test_an_address_to_listen_on_is_read(folder: Folder, written: str, listen: Listen) -> None:
    folder.write("gateway.yaml", f"accounts: {{openai: {{api_key: x}}}}\nproxy: {{listen: {written}}}\n")
    assert folder.good().settings.proxy.listen == (listen,)


def test_several_addresses_pages_and_a_mode_are_read(folder: Folder) -> None:
    folder.write(
        "gateway.yaml",
        "accounts: {openai: {api_key: x}}\n"
        'proxy: {listen: ["[::]:80", "0.0.0.0:80", "unix:gw"], socket_mode: "0666", '
        'cors_origins: [https://A.example, "http://localhost:5173", "https://b.example:443", "http://[::1]:80", "chrome-extension://abc"]}\n',
    )
    proxy = folder.good().settings.proxy
    assert proxy.listen == (Listen("::", 80), Listen("0.0.0.0", 80), Listen("", 0, "gw"))
    assert proxy.socket_mode == 0o666
    as_browsers_write = ("https://a.example", "http://localhost:5173", "https://b.example", "http://[::1]", "chrome-extension://abc")
    assert proxy.cors_origins == as_browsers_write
    folder.write("gateway.yaml", 'accounts: {openai: {api_key: x}}\nproxy: {cors_origins: "*"}\n')
    assert folder.good().settings.proxy.cors_origins == ("*",)


@pytest.mark.parametrize(
    "env, workers",
    [({}, 1), ({"WORKERS": ""}, 1), ({"WORKERS": "1"}, 1)],
    ids=["not set", "set to nothing", "set"],
)
def test_a_variable_may_be_a_number_and_have_a_default(folder: Folder, env: dict[str, str], workers: int) -> None:
    folder.env = env
    folder.write("gateway.yaml", "accounts: {openai: {api_key: x}}\nworkers: ${WORKERS:-1}\n")
    assert folder.good().settings.workers == workers


def test_two_dollar_signs_are_one(folder: Folder) -> None:
    folder.env = {"A": "${B}"}
    folder.write("gateway.yaml", "accounts: {openai: {api_key: '$${A}${A}$A'}}\n")
    assert folder.good().settings.accounts[0].api_key.value == "${A}${B}$A"  # and what came in is not looked at again


def test_a_variable_may_be_written_as_an_escape(folder: Folder) -> None:
    folder.env = {"A": "sk-a"}
    folder.write("gateway.yaml", 'accounts: {openai: {api_key: "\\x24{A}"}}\n')
    assert folder.good().settings.accounts[0].api_key.value == "sk-a"


def test_a_problem_shows_the_variable_and_not_what_was_in_it(folder: Folder) -> None:
    folder.env = {"SECRET": "s3cret value"}
    folder.write("gateway.yaml", "accounts: {openai: {api_key: x, base_url: '${SECRET}'}}\n")
    folder.write("teams/voice.yaml", "team: voice\naccount: ${SECRET}\n")
    texts = folder.texts()
    assert [text.rpartition("found ")[2] for text in texts] == ["'${SECRET}'", "'${SECRET}'; allowed: openai"]
    folder.write("gateway.yaml", "accounts: {openai: {api_key: '${SECRET}'}}\nadmin: {token: '${SECRET}'}\n")
    texts += folder.texts()
    assert len(texts) == 5
    assert not any("s3cret" in text for text in texts)


def test_secrets_in_files_are_read_without_the_newline_and_never_shown(folder: Folder) -> None:
    folder.write("key", "sk-from-a-file\n")
    folder.write("gateway.yaml", "accounts: {openai: {api_key: file:config/key}}\nadmin: {token: file:config/key}\n")
    loaded = folder.good()
    assert loaded.settings.accounts[0].api_key.value == loaded.settings.admin.token.value == "sk-from-a-file"
    assert "sk-from-a-file" not in repr(loaded.settings)
    assert "config/key" in loaded.stamps
    folder.write("key", "\n")
    assert folder.texts()[0] == "config/gateway.yaml:1: accounts.openai.api_key: the file it names is empty"


def test_certificates_that_are_there_are_named_without_their_prefix(folder: Folder, pem: Mapping[str, bytes]) -> None:
    folder.write("tls.crt", pem["ours.crt"])
    folder.write("tls.key", pem["ours.key"])
    folder.write("both.pem", pem["both.pem"])
    for certificate, key in (("config/tls.crt", "config/tls.key"), ("config/both.pem", "config/both.pem")):
        tls_text = f"proxy: {{tls: {{certificate: file:{certificate}, key: {key}}}}}\n"
        folder.write("gateway.yaml", "accounts: {openai: {api_key: x, ca_file: file:config/tls.crt}}\n" + tls_text)
        settings = folder.good().settings
        assert settings.proxy.tls is not None
        assert (settings.proxy.tls.certificate_file, settings.proxy.tls.key_file) == (certificate, key)
        assert settings.accounts[0].ca_file == "config/tls.crt"


def test_serving_needs_a_key_unless_the_upstream_is_on_this_machine(folder: Folder) -> None:
    for base_url, severities in (("https://api.openai.com/v1", ["error"]), ("http://127.0.0.1:9000/v1", []), ("http://[::1]:9000/v1", [])):
        folder.write("gateway.yaml", f"accounts: {{openai: {{base_url: '{base_url}'}}}}\n")
        found = folder.load(purpose="serve")
        problems = found.warnings if isinstance(found, Loaded) else found
        assert [problem.severity for problem in problems] == severities
    assert folder.good(purpose="demo").settings.accounts[0].base_url == "http://[::1]:9000/v1"


def test_no_team_is_worth_a_word(folder: Folder) -> None:
    (folder.root / "teams" / "voice.yaml").unlink()
    assert folder.texts() == ["config/teams: warning: there is no team, so every call will be refused; `gateway init` writes one"]


def test_a_snapshot_survives_the_control_socket() -> None:
    loaded = loaded_example(OPENAI_API_KEY="sk-x")
    snapshot = loaded.snapshot(17, team_tiers={"search": "tier-3"}, learned_output_tokens={"a\0b\0c": 5}, learned_input_tokens={"d": 6})
    again = decode_snapshot(encode_snapshot(snapshot))
    assert again == snapshot
    assert isinstance(again, Snapshot)
    assert (again.loaded_at_us, again.config_hash) == (17, loaded.config_hash)
    assert Facts(again).tiers == {"search": "tier-3", "voice": "tier-1"}
    assert again.settings.accounts[0].api_key.value == "sk-x"


def test_the_hash_is_of_names_and_contents_wherever_they_are(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("shipped/models").mkdir()
    Path("shipped/models/o1.yaml").write_text("model: o1\n")
    first = folder.good().config_hash
    for root in (folder.root, folder.root.resolve()):
        folder.root = root
        assert folder.good().config_hash == first
    with monkeypatch.context() as inside:
        inside.chdir("config")
        again = load(Path("."), {}, shipped=Path("../shipped").resolve())
    assert isinstance(again, Loaded)
    assert again.config_hash == first
    (folder.root / "teams" / "voice.yaml").rename(folder.root / "teams" / "w.yaml")
    second = folder.good().config_hash
    folder.write("teams/w.yaml", "team: voice\n")
    assert len({first, second, folder.good().config_hash}) == 3
