"""What is chosen at the top of a dashboard, and what a query is when something has been chosen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ALL = ".+"  # of any label: every series has each of its labels, and none is empty
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

_ON_TIME_RANGE_CHANGE, _BY_NAME = 2, 1  # Grafana's `refresh` and `sort`
_SPECIAL = re.compile(r"[\\^$*+?.()|\[\]{}]")


@dataclass(frozen=True, slots=True)
class Variable:
    """Values of one label, several at once or all; asked of a metric that has the label on everything the panels show."""

    name: str
    metric: str
    description: str

    def json(self) -> dict[str, Any]:
        """Grafana's query variable."""
        matcher = "" if self.name == "job" else '{job=~"$job"}'
        query = f"label_values({self.metric}{matcher}, {self.name})"
        return {
            "name": self.name,
            "label": self.name.capitalize(),
            "description": self.description,
            "type": "query",
            "datasource": DATASOURCE,
            "definition": query,
            "query": {"qryType": 1, "query": query, "refId": f"variable-{self.name}"},
            "refresh": _ON_TIME_RANGE_CHANGE,
            "sort": _BY_NAME,
            "multi": True,
            "includeAll": True,
            "allValue": ALL,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
            "options": [],
            "regex": "",
            "hide": 0,
            "skipUrlSync": False,
        }


def datasource_variable() -> dict[str, Any]:
    """Which Prometheus is asked: no dashboard names one."""
    return {
        "name": "datasource",
        "label": "Prometheus",
        "description": "The Prometheus that scrapes the gateway.",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "multi": False,
        "includeAll": False,
        "current": {},
        "options": [],
        "regex": "",
        "hide": 0,
        "skipUrlSync": False,
    }


def filled(query: str, chosen: Mapping[str, Sequence[str]], *, rate_interval: str, time_range: str) -> str:
    """A query as Grafana sends it. What is not in `chosen` is All; `rate_interval` and `time_range` as Prometheus prints them: "1m".

    Source: Grafana's Prometheus data source. Several values become a group of alternatives, each escaped as a regular expression
    inside a PromQL string.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name in ("__rate_interval", "__range"):
            return rate_interval if name == "__rate_interval" else time_range
        values = [_SPECIAL.sub(r"\\\\\g<0>", each) for each in chosen.get(name, ())]
        return ALL if not values else values[0] if len(values) == 1 else f"({'|'.join(values)})"

    return re.sub(r"\$([A-Za-z_]+)", value, query)
