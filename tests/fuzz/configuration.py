"""What people write: configuration files, single values in them, questions to the admin port. Any bytes: a value, or problems in words."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec
from pydantic import TypeAdapter, ValidationError

from gateway.admin.guard import refusal
from gateway.admin.questions import BadQuestion, entries_limit, filters_of, group_by, moment
from gateway.config.documents import read_document
from gateway.config.fields import BaseUrl, is_name, parse_expires_us, parse_listen, parse_name, parse_origin
from gateway.config.files import read_bytes
from gateway.config.http_proxy import parse_http_proxy, proxy_of_environment
from gateway.config.load import Loaded, NotLoaded, load
from gateway.config.snapshot import Facts, HttpProxy, Listen, decode_snapshot, encode_snapshot
from gateway.errors import ApiError

from .target import Seeds, control

SECRET = "sk-upstream-0123456789"
EXAMPLE = Path(__file__).parent.parent / "config" / "example"
_ENV = {"OPENAI_API_KEY": SECRET, "GATEWAY_ADMIN_TOKEN": SECRET, "ODD": "/a\udcff"}  # as Python shows bytes that are no UTF-8
_MODEL = Path("models/gpt-4o.yaml")
_KINDS = (Path("gateway.yaml"), Path("tiers.yaml"), _MODEL, Path("teams/voice.yaml"))


class Kept(NamedTuple):
    """A good configuration, and where it lies."""

    folder: Path
    shipped: Path
    loaded: Loaded


@cache
def example() -> Kept:
    """The example's four kinds of file, one of each, and no other card: so that a load takes milliseconds."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-config-"))
    for kind in _KINDS:
        (folder / kind).parent.mkdir(exist_ok=True)
        text = (EXAMPLE / kind).read_text(encoding="utf-8").replace('"gpt-4o-realtime-preview", ', "")
        (folder / kind).write_text(text, encoding="utf-8")
    shipped = Path(tempfile.mkdtemp(prefix="fuzz-shipped-"))
    loaded = load(folder, _ENV, shipped=shipped)
    assert isinstance(loaded, Loaded), [problem.text() for problem in loaded]
    return Kept(folder, shipped, loaded)


def check_configuration(data: bytes) -> None:
    """One file of a good folder is any bytes: a snapshot that workers can read, or problems in one line each, without a secret."""
    flags, _, content = control(data)
    folder, shipped, before = example()
    changed = folder / _KINDS[flags % len(_KINDS)]
    previous = replace(before, files={file: read for file, read in before.files.items() if file != str(changed)})
    purpose: Any = ("check", "serve", "demo")[flags // 4 % 3]

    def read(path: Path) -> bytes:
        if path == changed:
            return content
        assert path.is_relative_to(folder) or path.stat().st_size < 2**20
        return read_bytes(path)

    loaded = load(folder, _ENV, previous, purpose=purpose, shipped=shipped, read=read)
    for problem in loaded if isinstance(loaded, NotLoaded) else loaded.warnings:
        text = problem.text()
        assert SECRET not in text, "a secret is shown"
        assert problem.line <= content.count(b"\n") + content.count(b"\r") + 2 or problem.file != str(changed)
        msgspec.json.encode(problem)
    if isinstance(loaded, NotLoaded):
        assert any(problem.severity == "error" for problem in loaded), "refused, and nothing says why"
        return
    assert SECRET not in repr(loaded.settings)
    snapshot = loaded.snapshot(1)
    assert decode_snapshot(encode_snapshot(snapshot)) == snapshot, "the workers would read another configuration"
    Facts(snapshot)


def grow_document(content: bytes) -> None:
    """Parse only: what follows reads each value once."""
    read_document("a.yaml", content)


def configuration_seeds() -> Seeds:
    """The example's files, and YAML that parsers trip over."""
    folder = example().folder
    seeds = {
        f"{kind.stem} {flags}": bytes([flags + number, 0]) + (folder / kind).read_bytes()
        for number, kind in enumerate(_KINDS)
        for flags in (0, 4)
    }
    odd = {
        "anchors": b"a: &a [1]\nb: *a\n", "merge": b"a: &a {b: 1}\nc: {<<: *a}\n", "tag": b"team: !!python/object/apply:os.system [ls]\n",
        "twice": b"team: voice\nteam: other\n", "no UTF-8": b"team: \xff\n", "NUL": b"team: \0\n", "UTF-16": "team: a".encode("utf-16"),
        "deep": b"a: " + b"[" * 200, "int": b"team: !!int x\n", "date": b"team: 2026-99-99\n", "huge": b"tier: 1" + b"0" * 150 + b"\n",
        "documents": b"--- 1\n--- 2\n", "sexagesimal": b"tier: 1:60:60\n", "bool": b"team: yes\ntier: no\n", "empty": b"", "list": b"- 1\n",
        "variable": b"team: ${TEAM:-voice}\ntier: ${\nkeys: [{id: k, hash: '${OPENAI_API_KEY}'}]\n", "key": b"? [1]\n: 2\n",
        "infinite": b"budget: {soft: [.inf, .nan]}\n",
        "odd variable": b"accounts: {openai: {tier: tier-5}}\njournal: {folder: '${ODD}'}\nledger: 'sqlite:${ODD}'\n",
        "secret misplaced": b"accounts: {openai: {base_url: '${OPENAI_API_KEY}', organization: '${OPENAI_API_KEY} a'}}\n",
    }  # fmt: skip
    return seeds | {f"{name}, {kind.stem}": bytes([number, 0]) + text for name, text in odd.items() for number, kind in enumerate(_KINDS)}


# Single values


def check_values(data: bytes) -> None:
    """Listeners, addresses, names, dates: a value that can be used as it is meant, or ValueError in one sentence."""
    flags, _, raw = control(data)
    text = raw.decode("utf-8", "replace")
    read = _VALUES[flags % len(_VALUES)]
    value: Any = None
    refused: type[Exception] | None = None
    try:
        value = read(text)
    except ValueError as error:
        refused = type(error)
    if refused is not None:
        assert refused in (ValueError, ValidationError), f"{refused.__name__} instead of a sentence"
        return
    if isinstance(value, Listen):
        assert value.path or (0 <= value.port <= 65_535 and value.host)
    elif isinstance(value, HttpProxy):
        assert value.host
        assert 0 < value.port <= 65_535
        assert all(0x20 <= ord(character) <= 0x7E for character in value.authorization.value), "credentials that end a header's line"
    elif read is _BASE_URL:
        parts = urlsplit(value)
        assert parts.hostname
        assert parts.port is None or 0 < parts.port <= 65_535
        assert all(0x21 <= ord(character) <= 0x7E for character in value), "an address that ends a header's line"
        proxy_of_environment(value, {"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": text})
    elif read is parse_name:
        assert is_name(value)
        assert value.isascii()
        assert "/" not in value
        assert value not in (".", "..")
    elif read is parse_expires_us and value is not None:
        assert abs(value) < 2**63


def _no_proxy(text: str) -> object:
    return proxy_of_environment("https://api.openai.com/v1", {"HTTPS_PROXY": text, "NO_PROXY": text})


_BASE_URL: Callable[[str], Any] = TypeAdapter(BaseUrl).validate_python
_VALUES: tuple[Callable[[str], Any], ...] = (
    parse_listen,
    parse_http_proxy,
    parse_name,
    parse_expires_us,
    _BASE_URL,
    _no_proxy,
    parse_origin,
)


def value_seeds() -> Seeds:
    """Each kind, right and wrong."""
    texts = (
        "127.0.0.1:8080", "[::1]:8080", "localhost:0", "unix:/run/gateway.sock", "a:99999", "²:8080", "a:٣", "https://api.openai.com/v1",
        "http://u:p@[::1]:3128/", "http://a:0", "https://[v1.a]:1", "https://a:b", "http://[::1", "voice", "..", "http://localhost:5173",
        "*", ".openai.com,10.0.0.0/8 [::1]:443", "2027-01-31", "2027-01-31T18:00:00Z", "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
    )  # fmt: skip
    return {f"{number} {which}": bytes([which, 0]) + text.encode() for number, text in enumerate(texts) for which in range(len(_VALUES))}


# The admin port


def check_admin(data: bytes) -> None:
    """Any query and any headers: an answer to the question, BadQuestion, or a refusal; a wrong token never passes."""
    flags, _, raw = control(data)
    first, _, rest = raw.decode("utf-8", "replace").partition("\n")
    if flags & 1:
        headers = dict(line.split(":", 1) for line in rest.split("\n") if ":" in line)
        refused = refusal(SECRET if flags & 2 else "", "POST" if flags & 4 else "GET", "127.0.0.1" if flags & 8 else first, headers)
        assert refused is None or isinstance(refused, ApiError)
        if flags & 2:
            assert (refused is None) <= (SECRET in headers.get("Authorization", "")), "served without the token"
        return
    query: Mapping[str, str] = dict(parse_qsl(first, keep_blank_values=True, errors="surrogateescape" if flags & 2 else "replace"))
    asks = (group_by, entries_limit, lambda asked: moment(asked, "since"), lambda asked: filters_of(asked, ("team",), ("by", "since")))
    for ask in asks:
        try:
            answer: object = ask(query)
        except BadQuestion:
            continue
        assert not isinstance(answer, int) or -(2**63) <= answer < 2**63


def admin_seeds() -> Seeds:
    """Questions and headers as they come, and odd ones."""
    queries = (
        "by=team,model&since=2026-05-01&until=2026-05-01T13:00:00Z&limit=10",
        "by=&limit=0",
        "limit=²",
        "since=0001-01-01T00:00:00%2B14:00",
        "team=%ff",
    )
    headers = (
        f"Authorization: Bearer {SECRET}", "Host:localhost:9091\nOrigin:http://localhost:9091",
        "Host:[::1]:9091\nSec-Fetch-Site:cross-site",
        "Host:[::1\nOrigin:http://[", "Host:127.0.0.1%zz", "Host:localhost\nOrigin:http://[",
        "Host:a.localhost\nX-Forwarded-For:1",
    )  # fmt: skip
    seeds = {f"query {number}": bytes([0, 0]) + query.encode() for number, query in enumerate(queries)}
    for number, header in enumerate(headers):
        seeds |= {f"headers {number} {flags}": bytes([flags, 0]) + b"::1%lo\n" + header.encode() for flags in (1, 3, 5, 13)}
    return seeds
