"""What only shows when files are held against each other: names that must exist, and names that must be there once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.catalogue import Card
from gateway.catalogue.parse import modalities_without_price
from gateway.config.files import LazySource, ReadFile
from gateway.config.gateway_file import GatewayFile
from gateway.config.problems import Findings, KeyPath, Problem, nearest
from gateway.config.settings import Purpose
from gateway.teams import Team

EXAMPLE_KEY_HASHES = frozenset(
    {
        "a50ee41f8b7e0ae23721459d9a5afe26b13af4b8573fe979a0280d4623485ff1",
        "3155b883561d4c35551c687d51bed59cf8c3411a951d68a160f0e6515051cec3",
    }
)
"""Keys that are printed in the example files: anybody knows them."""

_AUTO = re.compile(rb"""(?:^|[{,])\s*["']?tier["']?\s*:\s*["']?auto\b""", re.MULTILINE)
"""`tier: auto` as it is written. Who leaves `tier` out asked for no rise; and looking here spares parsing every file again."""


@dataclass(slots=True)
class Names:
    """The names other files may use. None: they are not known, since what defines them could not be read."""

    models: dict[str, str] | None = field(default_factory=dict)  # id, alias or snapshot -> the card's model
    groups: set[str] = field(default_factory=set)  # a team may limit a whole limit_group
    tiers: list[str] | None = field(default_factory=list)
    accounts: list[str] | None = field(default_factory=list)


def check_gateway(gateway: ReadFile[GatewayFile], names: Names, findings: Findings) -> None:
    """The tiers of the accounts exist."""
    source = LazySource(gateway)
    for name, account in gateway.value.accounts.items():
        if account.tier is not None:
            _known(source, ("accounts", name, "tier"), account.tier, names.tiers, "tier", findings)


def check_cards(cards: Iterable[tuple[ReadFile[Card], bool]], names: Names, findings: Findings) -> None:
    """Every name is on one card only, tiers exist, and what a model takes and gives has a price.

    With each card: whether it is the user's own. The shipped ones hold their names first: it is the user's file that can be mended.
    """
    first: dict[str, str] = {}
    for read, own in sorted(cards, key=lambda card: card[1]):
        card, source = read.value, LazySource(read)
        places: list[tuple[KeyPath, str]] = [(("model",), card.model)]
        places += [(("aliases", number), name) for number, name in enumerate(card.aliases)]
        places += [(("snapshots", number), name) for number, name in enumerate(card.snapshots)]
        for path, name in places:
            if name in first:
                findings.add(source, path, f"{name!r} is a name in {first[name]} already")
            first.setdefault(name, read.file)
        for tier in card.limits if own else ():  # shipped cards may name tiers that a tiers.yaml of one's own does without
            _known(source, ("limits", tier), tier, names.tiers, "tier", findings)
        for missing in modalities_without_price(card) if own else ():
            message = f"{missing} has no price in the newest prices, so calls that use it will be unpriced"
            findings.add(source, ("modalities", missing.partition(" ")[0]), message, severity="warning")


@dataclass(slots=True)
class TeamChecks:
    """Goes over the teams one by one."""

    names: Names
    purpose: Purpose
    findings: Findings
    _teams: dict[str, str] = field(default_factory=dict)  # team -> file
    _hashes: dict[str, tuple[str, str]] = field(default_factory=dict)  # hash -> key id, file
    _not_enforced: dict[str, list[Problem]] = field(default_factory=dict)  # setting -> a warning, and one more a team, without its line

    def check(self, read: ReadFile[Team]) -> None:
        """One team's names against all others."""
        team, source = read.value, LazySource(read)
        if team.name in self._teams:
            self.findings.add(source, ("team",), f"{team.name!r} is the team of {self._teams[team.name]} already")
        self._teams.setdefault(team.name, read.file)
        self._keys(team, source)
        if team.tier != "auto":
            _known(source, ("tier",), team.tier, self.names.tiers, "tier", self.findings, also="auto")
        if team.account is not None:
            _known(source, ("account",), team.account, self.names.accounts, "account", self.findings)
        self._models(team, source)
        self._warn_of_what_is_not_enforced(team, source, read.content)

    def finish(self) -> None:
        """Notes the warnings that are told once for all teams."""
        for setting, warnings in self._not_enforced.items():
            first, others = warnings[0], len(warnings) - 1
            more = f" (and in {others} more team files)" if others else ""
            message = f"{setting} in this version{more}"
            self.findings.problems.append(Problem(first.file, first.line, first.key, message, severity="warning"))

    def _keys(self, team: Team, source: LazySource) -> None:
        ids: set[str] = set()
        for number, key in enumerate(team.keys):
            if key.id in ids:
                self.findings.add(source, ("keys", number, "id"), f"{key.id!r} is a key of this team already")
            ids.add(key.id)
            if key.hash in self._hashes:
                other, file = self._hashes[key.hash]
                self.findings.add(source, ("keys", number, "hash"), f"is the key {other!r} of {file} already")
            self._hashes.setdefault(key.hash, (key.id, source.file))
            if key.hash in EXAMPLE_KEY_HASHES and not key.revoked and self.purpose != "demo":
                message = "is the key of the published example, which anybody knows; make your own with `gateway keys create`"
                self.findings.add(source, ("keys", number, "hash"), message, severity="error" if self.purpose == "serve" else "warning")

    def _models(self, team: Team, source: LazySource) -> None:
        models = self.names.models
        if models is None:
            return
        for number, name in enumerate(team.models):
            if name != "*" and name not in models:
                _known(source, ("models", number), name, models, "model", self.findings)
        first: dict[str, str] = {}
        for name in team.limits:
            if name not in models and name not in self.names.groups:
                _known(source, ("limits", name), name, models, "model", self.findings, show=False)
            elif (other := first.setdefault(models.get(name, name), name)) != name:
                self.findings.add(source, ("limits", name), f"is the same model as {other!r}, and they share their limits; keep one")
        if team.price_unknown_as is not None:
            _known(source, ("unknown_model", "price_as"), team.price_unknown_as, models, "model", self.findings)

    def _warn_of_what_is_not_enforced(self, team: Team, source: LazySource, content: bytes) -> None:
        paths: list[tuple[str, KeyPath]] = []
        if team.tier == "auto" and self.purpose != "demo" and _AUTO.search(content):
            paths.append(("`auto` stays at `start` of tiers.yaml and does not rise", ("tier",)))
        budgets = "budgets are read but not enforced"
        if team.budget:
            paths.append((budgets, ("budget",)))
        paths += [(budgets, ("keys", number, "budget")) for number, key in enumerate(team.keys) if key.budget]
        if team.realtime:
            paths.append(("realtime caps are read but not enforced", ("realtime",)))
        for setting, path in paths:
            warnings = self._not_enforced.setdefault(setting, [])
            if not warnings:
                warnings.append(Problem(source.file, source.line(path), ".".join(map(str, path)), ""))
            elif warnings[-1].file != source.file:
                warnings.append(Problem(source.file, 0, "", ""))


def _known(
    source: LazySource,
    path: KeyPath,
    name: str,
    names: Iterable[str] | None,
    what: str,
    findings: Findings,
    *,
    also: str = "",
    show: bool = True,
) -> None:
    """Note a name that nothing defines. Few possible names are listed; of many only the nearest is told."""
    if names is None or name in names:
        return
    possible = [*names, also] if also else list(names)
    listed = "" if what == "model" else ", ".join(possible)
    findings.add(source, path, f"no such {what}", show=show and path[-1] != name, allowed=listed, suggestion=nearest(name, possible))
