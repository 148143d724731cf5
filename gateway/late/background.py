"""Usage that a later answer shows: a background response ends after the call that made it. Pure.

The call that made it could only be booked at the reserved amount, `unknown`. When a later call fetches the response in its end state,
that call's entry carries what the response used (`late_usage`), and the entry of the making call is superseded once.
"""

from __future__ import annotations

from msgspec.structs import replace

from gateway.closing import cost_served
from gateway.config.snapshot import Facts
from gateway.journal.records import Entry

CORRECTED = frozenset({"unknown", "estimated"})  # an estimate too: a stored response whose stream was cut says later what it used
LATE = "late"  # the mark of an entry whose usage came by a later answer


def revised(original: Entry, seen: Entry, facts: Facts) -> Entry | None:
    """The entry that takes the original's place, priced as of the moment its usage was seen; None when nothing is to be corrected.

    Only entries whose usage was not reported are corrected, and only by their own team: what was reported or corrected before stays.
    """
    if original.usage_source not in CORRECTED or seen.late_usage is None or seen.team != original.team:
        return None
    served = seen.model_served or original.model_served or original.model_asked
    team = next((team for team in facts.snapshot.teams if team.name == original.team), None)
    account = facts.accounts.get(original.account)
    cost_picousd, price_version = cost_served(facts, team, account, served, seen.service_tier, seen.late_usage, seen.ended_at_us)
    return replace(
        original,
        model_served=served,
        service_tier=seen.service_tier,
        usage=seen.late_usage,
        details=seen.details,
        usage_source="reported",
        cost_picousd=cost_picousd,
        price_version=price_version,
        ended_at_us=max(original.ended_at_us, seen.ended_at_us),
        outcome="ok" if original.outcome == "unknown" else original.outcome,
        marks=(*original.marks, LATE),
    )
