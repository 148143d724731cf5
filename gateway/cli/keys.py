"""`gateway keys`: make, list and revoke the keys of teams."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.configuration import DEFAULT_FOLDER, ConfigOption, JsonOption, load_or_stop
from gateway.cli.screen import BAD, Column, printable, say, say_problems, show_json, show_table, stop

if TYPE_CHECKING:
    from gateway.teams import Key

keys = typer.Typer(help="Make, list and revoke the keys of teams.", no_args_is_help=True)

TeamArgument = Annotated[str, typer.Argument(metavar="TEAM", help="Name of the team.")]


@keys.command()
def create(
    team: TeamArgument,
    key_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="What the key is called; left out: TEAM-1, TEAM-2, ...")] = None,
    expires: Annotated[str | None, typer.Option(metavar="TIME", help="When it ends: 2027-01-31 or 2027-01-31T18:00:00Z.")] = None,
    config: ConfigOption = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, once: the team's file keeps only its hash. A running gateway takes it within seconds."""
    from gateway.config.problems import Problem
    from gateway.config.write import add_key

    _refuse_past(expires)
    file, known = _team_file(config, team)
    if key_id is None:
        key_id = next(name for name in (f"{team}-{number}" for number in range(1, len(known) + 2)) if name not in known)
    made = add_key(file, key_id, expires)
    if isinstance(made, Problem):
        say_problems([made])
        stop("no key was made", BAD)
    if as_json:
        show_json({"team": team, "id": key_id, "key": made, "file": str(file)})
        return
    say(f"key {key_id} of team {team}, written to {file} as a hash. The key is shown only now:")
    print(made)


@keys.command(name="list")
def list_keys(
    team: Annotated[str | None, typer.Argument(metavar="TEAM", help="Only this team.")] = None,
    config: ConfigOption = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Keys by team, with their state. The keys themselves are known to nobody but those who use them."""
    teams = load_or_stop(config).teams
    if team is not None and all(team != known.name for known in teams):
        stop(f"there is no team '{printable(team)}' in {config}", BAD)
    now_us = time.time_ns() // 1000
    found = [_shown(known.name, key, now_us) for known in teams if team in (None, known.name) for key in known.keys]
    if as_json:
        show_json({"keys": found})
        return
    rows = [[key["team"], key["id"], key["state"], key["expires"] or "-"] for key in found]
    show_table([Column("team"), Column("id"), Column("state"), Column("expires")], rows, empty="There are no keys.")


@keys.command()
def revoke(
    team: TeamArgument,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as `gateway keys list` shows it.")],
    config: ConfigOption = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Refuse a key from now on. Its entry stays in the file, since the ledger speaks of it. A running gateway obeys within seconds."""
    from gateway.config.write import revoke_key

    file, _ = _team_file(config, team)
    problem = revoke_key(file, key_id)
    if problem is not None:
        say_problems([problem])
        stop("no key was revoked", BAD)
    if as_json:
        show_json({"team": team, "id": key_id, "state": "revoked", "file": str(file)})
        return
    say(f"key {key_id} of team {team} is revoked in {file}")


def _team_file(config: Path, team: str) -> tuple[Path, set[str]]:
    """The file that says `team: <team>`, and the ids of its keys. Needs no other file to be right: a key may have to go now."""
    from gateway.config.documents import Document, read_document
    from gateway.config.files import read_bytes

    folder = config / "teams"
    names = []
    for file in sorted(folder.glob("*.yaml")):
        try:
            document = read_document(str(file), read_bytes(file))
        except OSError as error:
            say(f"{file} cannot be read: {error.strerror}")
            continue
        if not isinstance(document, Document):
            if file.stem == team:
                say_problems(document)
                stop(f"{file} cannot be edited as it is", BAD)
            continue
        names.append(str(document.value.get("team")))
        if document.value.get("team") == team:
            listed = document.value.get("keys")
            return file, {str(key.get("id")) for key in listed if isinstance(key, dict)} if isinstance(listed, list) else set()
    known = ", ".join(map(printable, names)) or "none; `gateway init` makes one"
    stop(f"there is no team '{printable(team)}' in {folder}; teams there: {known}", BAD)


def _refuse_past(expires: str | None) -> None:
    """Exits with status 2 for a key that nobody could ever use."""
    from gateway.config.fields import parse_expires_us

    try:
        expires_us = parse_expires_us(expires)
    except ValueError as error:
        stop(f"--expires: {error}", BAD)
    if expires_us is not None and expires_us <= time.time_ns() // 1000:
        stop(f"--expires: {expires} is past, so the key would never be accepted; no key was made", BAD)


def _shown(team: str, key: Key, now_us: int) -> dict[str, Any]:
    from gateway.ledger.rows import time_text

    expired = key.expires_at_us is not None and key.expires_at_us <= now_us
    return {
        "team": team,
        "id": key.id,
        "state": "revoked" if key.revoked else "expired" if expired else "active",
        "expires": None if key.expires_at_us is None else time_text(key.expires_at_us),
    }
