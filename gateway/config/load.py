"""A configuration folder to one checked value, or to all of its problems. A bad file changes nothing: the caller keeps what it has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from gateway.catalogue import Card, Catalogue
from gateway.catalogue.schema import CardModel, Tiers, TiersModel
from gateway.config.checks import Names, TeamChecks, check_cards, check_gateway
from gateway.config.files import Files, LazySource, Reader, ReadFile, read_bytes
from gateway.config.gateway_file import GatewayFile
from gateway.config.problems import Findings, Problem
from gateway.config.settings import Purpose, SettingsReader
from gateway.config.shipped import shipped_folder
from gateway.config.snapshot import Settings, Snapshot, Tier
from gateway.config.team_file import TeamFile
from gateway.config.watch import Stamps, settled, stamps_of
from gateway.teams import Team


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration without errors. `previous` of the next load: files that did not change are not read again."""

    settings: Settings
    catalogue: Catalogue
    tiers: tuple[Tier, ...]
    start_tier: str
    teams: tuple[Team, ...]
    config_hash: str  # of the files' names and contents
    warnings: tuple[Problem, ...]
    files: Mapping[str, ReadFile[Any]]
    named_files: tuple[Path, ...]  # secrets and certificates that gateway.yaml names
    stamps: Stamps  # from before anything was read: what `changed_since` compares with

    def snapshot(
        self,
        loaded_at_us: int,
        *,
        team_tiers: Mapping[str, str] | None = None,
        learned_output_tokens: Mapping[str, int] | None = None,
        learned_input_tokens: Mapping[str, int] | None = None,
    ) -> Snapshot:
        """What the workers are sent, with what the books have learned."""
        return Snapshot(
            settings=self.settings,
            catalogue=self.catalogue,
            tiers=self.tiers,
            start_tier=self.start_tier,
            teams=self.teams,
            config_hash=self.config_hash,
            loaded_at_us=loaded_at_us,
            team_tiers=dict(team_tiers or {}),
            learned_output_tokens=dict(learned_output_tokens or {}),
            learned_input_tokens=dict(learned_input_tokens or {}),
        )


class NotLoaded(list[Problem]):
    """Every problem there is, warnings included, and what to watch: a file that is named may be what will be mended."""

    def __init__(self, problems: Iterable[Problem], stamps: Stamps, named_files: tuple[Path, ...] = ()) -> None:
        super().__init__(problems)
        self.stamps, self.named_files = stamps, named_files  # as of `Loaded`


def load(
    folder: Path,
    env: Mapping[str, str],
    previous: Loaded | None = None,
    *,
    purpose: Purpose = "check",
    shipped: Path | None = None,
    read: Reader = read_bytes,
) -> Loaded | NotLoaded:
    """Read gateway.yaml, tiers.yaml, models/*.yaml and teams/*.yaml. Problems, where there are any, come all at once, with warnings."""
    if os.path.isfile(folder):
        return NotLoaded([Problem(str(folder), 0, "", f"is a file; name the folder, here {folder.parent}")], stamps_of(folder))
    if not os.path.isdir(folder):
        return NotLoaded([Problem(str(folder), 0, "", "there is no such folder; `gateway init` makes one")], stamps_of(folder))
    findings = Findings()
    stamps = settled(stamps_of(folder))
    files = Files(env, previous.files if previous else {}, read, findings, stamps)
    shipped = shipped or shipped_folder()
    gateway = files.read(folder / "gateway.yaml", GatewayFile, lambda file: file)
    own_tiers = folder / "tiers.yaml"
    tiers = files.read(own_tiers if os.path.exists(own_tiers) else shipped / "tiers.yaml", TiersModel, TiersModel.to_tiers)
    cards = _cards(files, folder, shipped if gateway is None or gateway.value.shipped_cards else folder)
    teams = list(files.read_folder(folder / "teams", TeamFile, TeamFile.to_team))

    names = _names(files, folder, gateway, tiers, cards)
    settings: Settings | None = None
    named_stamps: Stamps = {}
    if gateway is not None:
        check_gateway(gateway, names, findings)
        reader = SettingsReader(LazySource(gateway), env, purpose, read, findings)
        settings, named_stamps = reader.settings(gateway.value), reader.stamps
    check_cards(cards, names, findings)
    checks = TeamChecks(names, purpose, findings)
    for team in teams:
        checks.check(team)
    checks.finish()
    if not (teams or findings.errors):
        message = "there is no team, so every call will be refused; `gateway init` writes one"
        findings.problems.append(Problem(str(folder / "teams"), 0, "", message, severity="warning"))

    problems = _sorted(findings.problems, files.order)
    named_files = tuple(map(Path, named_stamps))
    if findings.errors or settings is None or tiers is None:
        return NotLoaded(problems, stamps | named_stamps, named_files)
    return Loaded(
        settings=settings,
        catalogue=Catalogue(tuple(card.value for card, _ in cards), tiers.value.default_limits),
        tiers=tuple(Tier(rule.name, rule.spent_picousd, rule.days, rule.requests) for rule in tiers.value.tiers),
        start_tier=tiers.value.start_tier,
        teams=tuple(_with_models(team.value, names.models or {}) for team in teams),
        config_hash=_hash(folder, shipped, files.read_files),
        warnings=tuple(problems),
        files=files.read_files,
        named_files=named_files,
        stamps=stamps | named_stamps,
    )


def _cards(files: Files, folder: Path, shipped: Path) -> list[tuple[ReadFile[Card], bool]]:
    """By model, each with whether it is the user's own. A card of one's own replaces the shipped one of the same model."""
    own = list(files.read_folder(folder / "models", CardModel, CardModel.to_card))
    cards = [(card, True) for card in own]
    if shipped.resolve() != folder.resolve():
        models = {card.value.model for card in own}
        shipped_cards = list(files.read_folder(shipped / "models", CardModel, CardModel.to_card))
        cards += [(card, False) for card in shipped_cards if card.value.model not in models]
    return sorted(cards, key=lambda card: (card[0].value.model, card[0].file))


def _names(
    files: Files,
    folder: Path,
    gateway: ReadFile[GatewayFile] | None,
    tiers: ReadFile[Tiers] | None,
    cards: list[tuple[ReadFile[Card], bool]],
) -> Names:
    """Every name that is defined, also in files with problems: one mistake is to be told once."""
    models = {name: card.value.model for card, _ in cards for name in (card.value.model, *card.value.aliases, *card.value.snapshots)}
    names = Names(
        models=models,
        groups={card.value.limit_group for card, _ in cards},
        tiers=[rule.name for rule in tiers.value.tiers] if tiers else None,
        accounts=list(gateway.value.accounts) if gateway else None,
    )
    for path, values in files.broken:
        if path.name == "tiers.yaml":
            names.tiers = _texts(values.get("tiers")) or None
        elif path == folder / "gateway.yaml":
            names.accounts = _texts(values.get("accounts")) or None
        elif path.parent.name == "models":
            listed = [*_texts([values.get("model")]), *_texts(values.get("aliases")), *_texts(values.get("snapshots"))]
            for name in listed:
                models.setdefault(name, listed[0])
            names.models = names.models if listed else None
    return names


def _texts(values: object) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list | dict) else []


def _with_models(team: Team, models: Mapping[str, str]) -> Team:
    """Limits by the card's model, whichever of its names the file used: a card's names share their buckets."""
    if all(models.get(name, name) == name for name in team.limits):
        return team
    return msgspec.structs.replace(team, limits={models.get(name, name): limits for name, limits in team.limits.items()})


def _sorted(problems: list[Problem], order: list[str]) -> list[Problem]:
    """Errors first, since only they must be mended; by file as they were read, then by line."""
    place = {file: number for number, file in enumerate(order)}
    return sorted(problems, key=lambda problem: (problem.severity == "warning", place.get(problem.file, len(place)), problem.line))


def _hash(folder: Path, shipped: Path, files: Mapping[str, ReadFile[Any]]) -> str:
    """The same on every machine: of names inside the folder and of contents."""
    own, other = str(folder / "x")[:-1], str(shipped / "x")[:-1]  # with the slash, and nothing for "."
    named = []
    for file, read in files.items():
        is_shipped = other != own and file.startswith(other)
        named.append(("shipped/" + file.removeprefix(other) if is_shipped else file.removeprefix(own), read.digest))
    total = sha256()
    for name, digest in sorted(named):
        total.update(os.fsencode(name) + b"\0" + digest)
    return total.hexdigest()
