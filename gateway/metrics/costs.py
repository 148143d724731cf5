"""The cost of an entry by class: pricing says it once more, and the entry's own cost is what counts."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.catalogue import Card
from gateway.config.snapshot import Snapshot
from gateway.journal.records import Entry
from gateway.pricing import Unpriced, cost_lines

NOT_TOLD_APART = "other"


class CostClasses:
    """Splits what an entry cost by the prices of one configuration."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self._cards: dict[str, Card] = {}
        self._resident: frozenset[str] = frozenset()
        if snapshot is not None:
            self._cards = {card.model: card for card in snapshot.catalogue.cards}
            self._resident = frozenset(account.name for account in snapshot.settings.accounts if account.data_residency)

    def of(self, entry: Entry) -> Mapping[str, int]:
        """Pico-dollars by class; they sum to the entry's cost exactly.

        All is `other` when these prices do not give that cost: the card has changed since the entry was priced.
        """
        cost_picousd = entry.cost_picousd
        if not cost_picousd:
            return {}
        card = self._cards.get((entry.price_version or "").rpartition("@")[0])  # not by model: `price_as` takes another's prices
        model = entry.model_served or entry.model_asked
        if card is not None and model is not None:
            resident = entry.account in self._resident
            lines = cost_lines(card, model, entry.service_tier, entry.usage, entry.ended_at_us, data_residency=resident)
            if not isinstance(lines, Unpriced) and sum(lines.values()) == cost_picousd:
                return {kind.value: picousd for kind, picousd in lines.items()}
        return {NOT_TOLD_APART: cost_picousd}
