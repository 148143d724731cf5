"""Bad files and what is said of them, word for word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Folder

HASH = "sha256:" + "ab" * 32
NAME = "a name is 1 to 63 of a-z 0-9 . _ - and begins with a letter or digit (put it in quotes if it is a number)"
T = "config/teams/voice.yaml"
G = "config/gateway.yaml"
TEAM_KEYS = (
    "team, tier, keys, models, limits, limits_all_models, budget, realtime, account, on_client_gone, drain_seconds_max, "
    "unknown_model, unmetered_paths, estimate, mode, days"
)

TEAMS = {
    "an empty file": ("", [f"{T}: is empty"]),
    "only a comment": ("# nothing\n", [f"{T}: is empty"]),
    "a list at the top": ("- team: voice\n", [f"{T}:1: a mapping of keys to values is needed at the top"]),
    "not UTF-8": (b"team: voice\ntier: \xff\n", [f"{T}:2: is not UTF-8, found the byte 0xff"]),
    "a tab": (
        "team: voice\n\ttier: auto\n",
        [f"{T}:2: is not valid YAML: found a tab character that violates indentation while scanning a plain scalar"],
    ),
    "a bracket left open": (
        "team: voice\nmodels: [gpt-4o\n",
        [f"{T}:3: is not valid YAML: did not find expected ',' or ']' while parsing a flow sequence"],
    ),
    "a control character": (b"team: voice\ntier: \x01\n", [f"{T}:2: is not valid YAML: the character U+0001 is not allowed"]),
    "two documents": (
        "team: voice\n---\nteam: two\n",
        [f"{T}:2: is not valid YAML: but found another document expected a single document in the stream"],
    ),
    "too large": ("#" * 1_048_577, [f"{T}: is larger than 1048576 bytes"]),
    "too deep": ("team: " + "[" * 50_000, [f"{T}: is nested too deeply, more than 64 levels"]),
    "a key twice": ("team: voice\ntier: auto\ntier: tier-1\n", [f"{T}:3: tier: is there twice, first in line 2"]),
    "an alias": ("team: &name voice\naccount: *name\n", [f"{T}:1: account: aliases (*) are not read, write the value out"]),
    "a merge key": ("team: voice\n<<: {tier: auto}\n", [f"{T}:2: merge keys (<<) are not read"]),
    "a number as key": ("team: voice\n4: x\n", [f"{T}:2: a key must be a string, put it in quotes"]),
    "a tag": ("team: !!python/name:os.system voice\n", [f"{T}:1: team: the tag 'tag:yaml.org,2002:python/name:os.system' is not read"]),
    "an impossible date": (
        f'team: voice\nkeys: [{{id: a, hash: "{HASH}", expires: 2027-02-31}}]\n',
        [f"{T}:2: keys[0].expires: is not a valid timestamp, put it in quotes if it is text"],
    ),
    "a misspelt key": ("team: voice\nmodls: [gpt-4o]\n", [f"{T}:2: modls: unknown key; allowed: {TEAM_KEYS}; did you mean 'models'?"]),
    "a misspelt key inside": (
        "team: voice\nrealtime:\n  session_max: 3\n",
        [
            f"{T}:3: realtime.session_max: unknown key; allowed: sessions_max, session_seconds_max, session_usd_max, "
            "audio_seconds_per_minute_max, audio_seconds_per_day_max; did you mean 'sessions_max'?"
        ],
    ),
    "a key missing": (
        "team: voice\nkeys:\n  - {id: a}\n  - {id: b}\n",
        [f"{T}:3: keys[0].hash: is missing", f"{T}:4: keys[1].hash: is missing"],
    ),
    "no name": ("tier: auto\n", [f"{T}:1: team: is missing"]),
    "a name in capitals": (
        "team: Voice\n",
        [f"{T}:1: team: {NAME}, found 'Voice'"],
    ),
    "a word that is not one of several": (
        "team: voice\nmode: shadows\n",
        [f"{T}:2: mode: is not one of those allowed, found 'shadows'; allowed: enforce, shadow; did you mean 'shadow'?"],
    ),
    "text instead of a list": ("team: voice\nmodels: gpt-4o\n", [f"{T}:2: models: a list is needed, found 'gpt-4o'"]),
    "a list instead of a mapping": ("team: voice\nlimits: []\n", [f"{T}:2: limits: a mapping is needed, found a list"]),
    "a number instead of text": ("team: voice\nmodels: [4]\n", [f"{T}:2: models[0]: text is needed, put it in quotes, found 4"]),
    "a limit of zero": ("team: voice\nlimits:\n  gpt-4o: {rpm: 0}\n", [f"{T}:3: limits.gpt-4o.rpm: must be at least 1, found 0"]),
    "a limit that cannot be counted": (
        "team: voice\nlimits_all_models:\n  rpd: 25000001\n",
        [f"{T}:3: limits_all_models.rpd: must be at most 25000000, found 25000001"],
    ),
    "a limit in words": (
        "team: voice\nlimits: {gpt-4o: {rpm: many}}\n",
        [f"{T}:2: limits.gpt-4o.rpm: a whole number is needed, found 'many'"],
    ),
    "a misspelt model in limits": (
        "team: voice\ntier: tier-1\nlimits:\n  gpt-4p: {rpm: 3}\n",
        [f"{T}:4: limits.gpt-4p: no such model; did you mean 'gpt-4o'?"],
    ),
    "a misspelt model in models": (
        "team: voice\nmodels:\n  - gpt-4o\n  - gpt-4o-2024-08-60\n",
        [f"{T}:4: models[1]: no such model, found 'gpt-4o-2024-08-60'; did you mean 'gpt-4o-2024-08-06'?"],
    ),
    "the same model twice in limits": (
        "team: voice\nlimits:\n  gpt-4o: {rpm: 3}\n  gpt-4o-2024-08-06: {rpm: 4}\n",
        [f"{T}:4: limits.gpt-4o-2024-08-06: is the same model as 'gpt-4o', and they share their limits; keep one"],
    ),
    "a model to price as that is not there": (
        "team: voice\nunknown_model: {price_as: gpt-9}\n",
        [f"{T}:2: unknown_model.price_as: no such model, found 'gpt-9'; did you mean 'gpt-4o'?"],
    ),
    "price_as without a model": (
        "team: voice\nunknown_model: price_as\n",
        [f"{T}:2: unknown_model: one of refuse, allow_unpriced, {{price_as: <model>}} is needed, found 'price_as'"],
    ),
    "a misspelt tier": (
        "team: voice\ntier: teir-1\n",
        [f"{T}:2: tier: no such tier, found 'teir-1'; allowed: tier-1, tier-2, auto; did you mean 'tier-1'?"],
    ),
    "a misspelt account": (
        "team: voice\naccount: opnai\n",
        [f"{T}:2: account: no such account, found 'opnai'; allowed: openai; did you mean 'openai'?"],
    ),
    "dollars as a float": (
        "team: voice\nbudget: {day_usd: 40.5}\n",
        [f'{T}:2: budget.day_usd: put dollars in quotes, as "500" or "12.50", so that they stay exact, found 40.5'],
    ),
    "dollars with a sign": (
        'team: voice\nbudget: {day_usd: "$40"}\n',
        [f"""{T}:2: budget.day_usd: dollars are written as "500" or "12.50", with at most 12 decimals, found '$40'"""],
    ),
    "no dollars": (
        'team: voice\nbudget: {day_usd: "0"}\n',
        [f"{T}:2: budget.day_usd: must be more than 0 and at most 9000000 dollars, found '0'"],
    ),
    "more dollars than can be counted": (
        'team: voice\nbudget: {month_usd: "9000000.000000000001"}\n',
        [f"{T}:2: budget.month_usd: must be more than 0 and at most 9000000 dollars, found '9000000.000000000001'"],
    ),
    "soft marks that are no shares": (
        "team: voice\nbudget: {soft: [0.5, 1.01, 0.333, .nan, 0]}\n",
        [
            f"{T}:2: budget.soft[1]: a share above 0 and up to 1 is needed, as 0.8, found 1.01",
            f"{T}:2: budget.soft[2]: a share in whole percent is needed, as 0.8 or 0.85, found 0.333",
            f"{T}:2: budget.soft[3]: a share above 0 and up to 1 is needed, as 0.8, found nan",
            f"{T}:2: budget.soft[4]: a share above 0 and up to 1 is needed, as 0.8, found 0",
        ],
    ),
    "a hash that is none": (
        'team: voice\nkeys: [{id: a, hash: "sha256:AB"}]\n',
        [
            f"{T}:2: keys[0].hash: a hash is written as sha256: and 64 lowercase hex digits; "
            "`gateway keys create` makes one, found 'sha256:AB'"
        ],
    ),
    "a time without its zone": (
        f'team: voice\nkeys: [{{id: a, hash: "{HASH}", expires: 2027-01-31T18:00:00}}]\n',
        [
            f"{T}:2: keys[0].expires: a date (2027-01-31, which means 00:00 UTC) or a time with its zone "
            "(2027-01-31T18:00:00Z) is needed, found 2027-01-31 18:00:00"
        ],
    ),
    "a key id twice": (
        f'team: voice\nkeys:\n  - {{id: a, hash: "{HASH}"}}\n  - {{id: a, hash: "sha256:{"cd" * 32}"}}\n',
        [f"{T}:4: keys[1].id: 'a' is a key of this team already"],
    ),
    "a key twice in one team": (
        f'team: voice\nkeys:\n  - {{id: a, hash: "{HASH}"}}\n  - {{id: b, hash: "{HASH}"}}\n',
        [f"{T}:4: keys[1].hash: is the key 'a' of {T} already"],
    ),
    "a variable that is not set": (
        "team: voice\naccount: ${ACCOUNT}\n",
        [f"{T}:2: account: the environment has no ACCOUNT; set it, or write ${{ACCOUNT:-default}}"],
    ),
    "a variable that is none": (
        "team: voice\naccount: ${1}\n",
        [f"{T}:2: account: '${{1}}' is not a variable; allowed: ${{NAME}}, ${{NAME:-default}}, and $${{ for a plain ${{"],
    ),
}


@pytest.mark.parametrize("content, said", TEAMS.values(), ids=TEAMS.keys())
def test_a_bad_team_file_says_file_line_key_and_what_to_do(folder: Folder, content: str | bytes, said: list[str]) -> None:
    folder.write("teams/voice.yaml", content)
    assert folder.texts() == said


A = "accounts:\n  openai:\n    api_key: sk-x\n"
ADDRESS = "an address is written as host:port, [::1]:port or unix:/path"
ORIGIN = 'an origin is written as browsers send it, https://app.example.com or http://localhost:5173, without a path; "*": any'

GATEWAYS = {
    "no accounts": ("workers: 1\n", [f"{G}:1: accounts: is missing"]),
    "an empty mapping of accounts": ("accounts: {}\n", [f"{G}:1: accounts: must have at least 1 of them"]),
    "an account that is the gateway itself": (
        "proxy: {listen: 127.0.0.1:8080}\naccounts:\n  openai:\n    base_url: http://localhost:8080/v1\n",
        [
            f"{G}:4: accounts.openai.base_url: is this gateway's own address (proxy.listen), so no call would ever reach OpenAI, "
            "found 'http://localhost:8080/v1'"
        ],
    ),
    "an account that a default makes the gateway itself": (
        "proxy: {listen: 127.0.0.1:8080}\naccounts:\n  openai:\n    base_url: ${OPENAI_BASE_URL:-http://localhost:8080/v1}\n",
        [
            f"{G}:4: accounts.openai.base_url: is this gateway's own address (proxy.listen), so no call would ever reach OpenAI, "
            "found 'http://localhost:8080/v1'"
        ],
    ),
    "several workers": (
        A + "workers: 2\n",
        [f"{G}:4: workers: 2 workers need a limits store they share, and this version has only the memory store of one worker; allowed: 1"],
    ),
    "no workers": (A + "workers: 0\n", [f"{G}:4: workers: must be at least 1, found 0"]),
    "true workers": (A + "workers: true\n", [f"{G}:4: workers: a whole number is needed, found true"]),
    "Redis": (
        A + "limits:\n  store: redis://:secret@host\n",
        [f"{G}:5: limits.store: this version keeps limits only in `memory`; allowed: memory"],
    ),
    "Postgres": (
        A + "ledger: postgresql://gw:secret@host/db\n",
        [f"{G}:4: ledger: this version keeps the ledger only in SQLite; allowed: sqlite:<path>"],
    ),
    "an SQLite ledger without a path": (
        A + 'ledger: "sqlite:"\n',
        [f"{G}:4: ledger: this version keeps the ledger only in SQLite; allowed: sqlite:<path>"],
    ),
    "no port": (A + "proxy: {listen: localhost}\n", [f"{G}:4: proxy.listen: {ADDRESS}, found 'localhost'"]),
    "no host": (A + 'proxy: {listen: ":8080"}\n', [f"{G}:4: proxy.listen: {ADDRESS}, found ':8080'"]),
    "a port too large": (
        A + "proxy: {listen: 127.0.0.1:65536}\n",
        [f"{G}:4: proxy.listen: a port is at most 65535, found '127.0.0.1:65536'"],
    ),
    "IPv6 without brackets": (
        A + 'proxy: {listen: "::1:8080"}\n',
        [f"{G}:4: proxy.listen: an IPv6 address is written in brackets, as [::1]:8080, found '::1:8080'"],
    ),
    "a socket without a path": (
        A + 'proxy: {listen: "unix:"}\n',
        [f"{G}:4: proxy.listen: a socket path has 1 to 100 bytes, found 'unix:'"],
    ),
    "nonsense among addresses": (
        A + "proxy:\n  listen:\n  - 127.0.0.1:80\n  - 8080\n",
        [f"{G}:7: proxy.listen[1]: {ADDRESS}, found 8080"],
    ),
    "no address at all": (A + "proxy: {listen: []}\n", [f"{G}:4: proxy.listen: must have at least 1 of them"]),
    "an address that is listed twice": (
        A + 'proxy:\n  listen:\n  - 127.0.0.1:80\n  - "unix:a"\n  - 127.0.0.1:80\n',
        [f"{G}:8: proxy.listen[2]: is there twice, found '127.0.0.1:80'"],
    ),
    "a mode that YAML takes for a number": (
        A + "proxy: {socket_mode: 0660}\n",
        [f'{G}:4: proxy.socket_mode: a mode is written in quotes, as "0660", found 432'],
    ),
    "an origin with a path": (
        A + "proxy:\n  cors_origins: [https://a.example, https://b.example/]\n",
        [f"{G}:5: proxy.cors_origins[1]: {ORIGIN}, found 'https://b.example/'"],
    ),
    "a pattern of origins": (
        A + 'proxy: {cors_origins: "https://*.example"}\n',
        [f"{G}:4: proxy.cors_origins: {ORIGIN}, found 'https://*.example'"],
    ),
    "the origin of every sandbox": (A + 'proxy: {cors_origins: ["null"]}\n', [f"{G}:4: proxy.cors_origins[0]: {ORIGIN}, found 'null'"]),
    "one address twice": (
        A + "proxy: {listen: 127.0.0.1:80}\nadmin: {listen: 127.0.0.1:80}\n",
        [f"{G}:5: admin.listen: is the address of proxy.listen, each needs its own, found '127.0.0.1:80'"],
    ),
    "certificates that are not there": (
        A + "proxy:\n  tls:\n    certificate: file:tls.crt\n    key: tls.key\n",
        [f"{G}:6: proxy.tls.certificate: there is no file 'tls.crt'", f"{G}:7: proxy.tls.key: there is no file 'tls.key'"],
    ),
    "an authority that is not there": (A + "    ca_file: ca.pem\n", [f"{G}:4: accounts.openai.ca_file: there is no file 'ca.pem'"]),
    "a secret that is not there": (
        "accounts:\n  openai:\n    api_key: file:/nowhere/key\n",
        [f"{G}:3: accounts.openai.api_key: there is no file '/nowhere/key'", f"{G}:3: warning: accounts.openai.api_key: there is no key"],
    ),
    "a key with a space": (
        "accounts:\n  openai:\n    api_key: sk- x\n",
        [f"{G}:3: accounts.openai.api_key: must be at most 4096 visible ASCII characters, since it goes into a header"],
    ),
    "a key that is a number": (
        "accounts:\n  openai:\n    api_key: 12345\n",
        [f"{G}:3: accounts.openai.api_key: text is needed, put it in quotes"],
    ),
    "a base URL with credentials": (
        A + "    base_url: https://user:secret@host/v1\n",
        [f"{G}:4: accounts.openai.base_url: no query, fragment or credentials are allowed in this address, found 'https://***@host/v1'"],
    ),
    "a base URL of another kind": (
        A + "    base_url: wss://host/v1\n",
        [f"{G}:4: accounts.openai.base_url: an address is written as https://host or http://host[:port][/path], found 'wss://host/v1'"],
    ),
    "a base URL with a query": (
        A + "    base_url: https://host/v1?a=b\n",
        [f"{G}:4: accounts.openai.base_url: no query, fragment or credentials are allowed in this address, found 'https://host/v1?a=b'"],
    ),
    "a plain base URL": (
        A + "    base_url: http://openai.internal/v1\n",
        [f"{G}:4: warning: accounts.openai.base_url: sends the account's key unencrypted; use https:// where the network is not your own"],
    ),
    "a base URL without /v1": (
        A + "    base_url: https://api.openai.com/\n",
        [f"{G}:4: warning: accounts.openai.base_url: does not end in /v1, where OpenAI's API is, found 'https://api.openai.com/'"],
    ),
    "a base URL whose password has a slash": (
        A + "    base_url: https://user:sec/ret@host/v1\n",
        [
            f"{G}:4: accounts.openai.base_url: an address is written as https://host or http://host[:port][/path], found 'https://***@host/v1'"
        ],
    ),
    "an account's tier that is not there": (
        A + "    tier: tier-9\n",
        [f"{G}:4: accounts.openai.tier: no such tier, found 'tier-9'; allowed: tier-1, tier-2; did you mean 'tier-2'?"],
    ),
    "an account named badly": (
        "accounts:\n  Open AI: {api_key: x}\n",
        [f"{G}:2: accounts.Open AI: {NAME}"],
    ),
    "an organization that would break a header": (
        A + '    organization: "a\\r\\nb"\n',
        [f"{G}:4: accounts.openai.organization: must be visible ASCII characters, since it goes into a header, found 'a\\r\\nb'"],
    ),
    "no key": (
        "accounts:\n  openai:\n    api_key: ${OPENAI_API_KEY:-}\n",
        [
            f"{G}:3: warning: accounts.openai.api_key: there is no key for this account, so every call would fail; "
            "set OPENAI_API_KEY in the environment"
        ],
    ),
    "what to do without a store that is never away": (
        A + "limits:\n  on_store_error: refuse\n",
        [f"{G}:5: warning: limits.on_store_error: has no effect in this version: the memory store is never away"],
    ),
    "an open admin port without a token": (
        A + "admin: {listen: 0.0.0.0:9091}\n",
        [f"{G}:4: warning: admin.token: is empty: other machines are refused, although admin.listen is open to them"],
    ),
}


@pytest.mark.parametrize("content, said", GATEWAYS.values(), ids=GATEWAYS.keys())
def test_a_bad_gateway_file_says_file_line_key_and_what_to_do(folder: Folder, content: str, said: list[str]) -> None:
    folder.write("gateway.yaml", content)
    found = folder.texts()
    assert len(found) == len(said)
    for text, start in zip(found, said, strict=True):
        assert text == start if "no key" not in start else text.startswith(start)
