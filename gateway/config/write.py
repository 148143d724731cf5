"""`gateway init` and `gateway keys`: new files, and small edits of team files that leave every other byte as it is.

An edit is checked before it is kept: the new text must say what the old said plus the change, else nothing is written.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

import yaml

from gateway.config.documents import Document, read_document
from gateway.config.fields import is_name, parse_expires_us, parse_name
from gateway.config.files import read_bytes
from gateway.config.load import load
from gateway.config.problems import Problem
from gateway.teams import key_hash

_BY_HAND = "is written in a way that cannot be edited safely; do it by hand"

_GATEWAY_YAML = """\
# All settings are in config/schemas/gateway.json of the gateway's repository. ${NAME} and ${NAME:-default} come from the environment.
proxy:
  listen: 127.0.0.1:8080                # where applications connect: their base URL is http://127.0.0.1:8080/v1
admin:
  listen: 127.0.0.1:9091                # metrics, health, admin API
  token: ${GATEWAY_ADMIN_TOKEN:-}       # empty: only loopback clients are served
accounts:                               # upstream accounts; the first is the default
  openai:
    base_url: ${OPENAI_BASE_URL:-https://api.openai.com/v1}
    api_key: ${OPENAI_API_KEY:-}        # or file:/run/secrets/openai
    # tier: tier-1                      # your account's usage tier: then all teams together stay inside its limits
journal:
  folder: var/journal                   # a local disk
ledger: sqlite:var/ledger.db
"""

_TEAM_YAML = """\
team: {team}
tier: auto                              # `start` of tiers.yaml; does not rise with use in this version. Or the name of a tier
keys:                                   # only hashes are kept; `gateway keys create` adds one and prints it once
  - {{id: {key_id}, hash: "sha256:{hash}"}}
models: ["*"]                           # every model with a card
"""


@dataclass(frozen=True, slots=True)
class InitResult:
    """What `init_folder` did. The key is nowhere else: show it once."""

    api_key: str | None  # None: the team's file was there before
    written: tuple[Path, ...]
    kept: tuple[Path, ...]  # were there before and were not touched
    problems: tuple[Problem, ...]  # of the folder as it is now, warnings included


def init_folder(folder: Path, team: str, *, env: Mapping[str, str]) -> InitResult | Problem:
    """A configuration that works as soon as OPENAI_API_KEY is set: gateway.yaml and one team with one key. Overwrites nothing."""
    try:
        parse_name(team)
    except ValueError as error:
        return Problem(str(folder), 0, "team", str(error))
    api_key = new_api_key(team)
    team_text = _TEAM_YAML.format(team=f'"{team}"', key_id=f'"{team}-1"', hash=key_hash(api_key.encode()))
    written: list[Path] = []
    kept: list[Path] = []
    team_file = folder / "teams" / f"{team}.yaml"
    try:
        team_file.parent.mkdir(parents=True, exist_ok=True)
        for path, text in ((folder / "gateway.yaml", _GATEWAY_YAML), (team_file, team_text)):
            (written if _create(path, text) else kept).append(path)
    except OSError as error:
        return Problem(str(error.filename or folder), 0, "", f"cannot be written: {error.strerror}")
    loaded = load(folder, env)
    problems = loaded if isinstance(loaded, list) else loaded.warnings
    return InitResult(api_key if team_file in written else None, tuple(written), tuple(kept), tuple(problems))


def new_api_key(team: str) -> str:
    """ "gk-<team>-" and 256 random bits as hex."""
    return f"gk-{team}-{secrets.token_hex(32)}"


def add_key(team_file: Path, key_id: str, expires: str | None = None) -> str | Problem:
    """Add a key to a team's file and return it; only its hash is written. `expires` as in the file: a date, or a time with its zone."""
    try:
        parse_name(key_id)
        parse_expires_us(expires)
    except ValueError as error:
        return Problem(str(team_file), 0, "keys", str(error))
    api_key = ""

    def edit(document: Document, text: str) -> tuple[str, dict[str, Any]] | str:
        nonlocal api_key
        team, keys = document.value.get("team"), document.value.get("keys")
        if not isinstance(team, str) or not is_name(team) or not isinstance(keys, list | None):
            return "is not a team's file"
        if any(isinstance(key, dict) and key.get("id") == key_id for key in keys or ()):
            return f"the team has a key {key_id!r} already"
        api_key = new_api_key(team)
        entry = {"id": key_id, "hash": f"sha256:{key_hash(api_key.encode())}"} | ({"expires": expires} if expires else {})
        wanted = deepcopy(document.value)
        wanted["keys"] = [*(keys or []), entry]
        flow = "{" + ", ".join(f'{name}: "{value}"' for name, value in entry.items()) + "}"
        return _with_item(text, flow), wanted

    return _edit(team_file, edit) or api_key


def revoke_key(team_file: Path, key_id: str) -> Problem | None:
    """Mark a key as revoked; its entry stays, since the ledger speaks of it. None: done, or it was revoked before."""

    def edit(document: Document, text: str) -> tuple[str, dict[str, Any]] | str:
        keys = document.value.get("keys")
        number = next((n for n, key in enumerate(keys or ()) if isinstance(key, dict) and key.get("id") == key_id), None)
        if number is None:
            return f"the team has no key {key_id!r}"
        wanted = deepcopy(document.value)
        wanted["keys"][number]["revoked"] = True
        return _with_revoked(text, number), wanted

    return _edit(team_file, edit)


def _edit(file: Path, edit: Any) -> Problem | None:
    """Read, change, check and replace one file, one at a time on this machine."""
    try:
        file = file.resolve(strict=True)  # a symbolic link stays one
        with _locked(file.parent):
            content = read_bytes(file)
            document = read_document(str(file), content)
            if not isinstance(document, Document):
                return document[0]
            try:
                edited = edit(document, content.decode())
            except (yaml.YAMLError, ValueError):  # the two YAML parsers do not agree on this text
                edited = _BY_HAND
            if isinstance(edited, str):
                return Problem(str(file), document.line(("keys",)), "keys", edited)
            new_text, wanted = edited
            again = read_document(str(file), new_text.encode())
            if not isinstance(again, Document) or again.value != wanted:
                return Problem(str(file), document.line(("keys",)), "keys", _BY_HAND)
            _replace(file, new_text)
            return None
    except OSError as error:
        return Problem(str(file), 0, "", f"cannot be written: {error.strerror}")


def _nodes(text: str) -> tuple[yaml.MappingNode, yaml.Node | None]:
    """The whole file and the value of `keys`, from the parser written in Python: its marks count characters."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)  # the document was read before
    return root, next((value for key, value in root.value if key.value == "keys"), None)


def _with_item(text: str, item: str) -> str:
    """The text with one more entry under `keys`."""
    _, keys = _nodes(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    if keys is None:
        return text + ("" if text.endswith("\n") else newline) + f"keys:{newline}  - {item}{newline}"
    if not isinstance(keys, yaml.SequenceNode):  # nothing, or ~
        return f"{text[: keys.start_mark.index]} [{item}]{text[keys.end_mark.index :]}"
    if keys.flow_style:
        end = keys.value[-1].end_mark.index if keys.value else keys.start_mark.index + 1
        return f"{text[:end]}{', ' if keys.value else ''}{item}{text[end:]}"
    return _after_line(text, _last_mark(keys), f"{' ' * keys.start_mark.column}- {item}", newline)


def _with_revoked(text: str, number: int) -> str:
    """The text with `revoked: true` in one entry of `keys`."""
    _, keys = _nodes(text)
    assert isinstance(keys, yaml.SequenceNode)  # the entry was found before
    entry = keys.value[number]
    revoked = next((value for key, value in entry.value if key.value == "revoked"), None)
    if revoked is not None:
        gap = " " if revoked.start_mark.index == revoked.end_mark.index else ""
        return f"{text[: revoked.start_mark.index]}{gap}true{text[revoked.end_mark.index :]}"
    if entry.flow_style:
        end = entry.value[-1][1].end_mark.index
        return f"{text[:end]}, revoked: true{text[end:]}"
    newline = "\r\n" if "\r\n" in text else "\n"
    return _after_line(text, _last_mark(entry), f"{' ' * entry.start_mark.column}revoked: true", newline)


def _last_mark(node: yaml.Node) -> Any:
    """Where the last written thing of a node ends: a block itself ends only where the next one begins, comments included."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return node.end_mark


def _after_line(text: str, mark: Any, line: str, newline: str) -> str:
    end = text.find("\n", mark.index)
    if end < 0:
        return f"{text}{newline}{line}{newline}"
    return f"{text[: end + 1]}{line}{newline}{text[end + 1 :]}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two edits at once would lose one of them."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        flock(handle, LOCK_EX)
        yield
    finally:
        os.close(handle)


def _create(path: Path, text: str) -> bool:
    """A new file for its owner alone; False when there is one already."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
    except BaseException:
        os.unlink(path)  # half a file would be kept by the next try
        raise
    return True


def _replace(file: Path, text: str) -> None:
    """Put a new text in a file's place, whole or not at all, with its mode and owner."""
    was = file.stat()
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # hidden: it is not read as a team
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as new:
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
            os.fchmod(new.fileno(), was.st_mode & 0o7777)
            if (was.st_uid, was.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(new.fileno(), was.st_uid, was.st_gid)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise
