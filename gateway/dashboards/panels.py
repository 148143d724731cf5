"""The few kinds of panel there are, rows of them, and where they stand.

Source: Grafana's dashboard schema (`@grafana/schema`, kind `dashboard`), which a test holds the result against. Sizes are in
Grafana's grid: 24 columns, rows of about 38 pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.dashboards.variables import DATASOURCE, Variable, datasource_variable

COLUMNS = 24
SCHEMA_VERSION = 39  # of Grafana 10.4: later ones migrate it when they load it, up to 13
GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GREY = "green", "yellow", "orange", "red", "blue", "purple", "#8e8e8e"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """One question. `legend`: the name of each series, with labels as `{{label}}`. `instant`: one answer, at the end of the time range."""

    expr: str
    legend: str = ""
    instant: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel of a Grafana plugin (`kind`). `fields` and `options` are that plugin's own."""

    kind: str
    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    width: int
    height: int
    fields: Json = field(default_factory=dict)
    overrides: tuple[Json, ...] = ()
    options: Json = field(default_factory=dict)
    transformations: tuple[Json, ...] = ()

    def json(self, number: int, x: int, y: int) -> Json:
        """The panel at its place."""
        is_table = self.kind == "table"
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "targets": [_target(query, index, is_table) for index, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": {"unit": self.unit, **self.fields}, "overrides": list(self.overrides)},
            "options": self.options,
            **({"transformations": list(self.transformations)} if self.transformations else {}),
        }


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a title, left to right, line after line. Without a title they stand at the top."""

    title: str
    panels: Sequence[Panel]
    collapsed: bool = False


def stat(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    width: int,
    base: str = GREEN,
    steps: Sequence[tuple[float, str]] = (),
    text: str = "value",
    none: str = "–",
) -> Panel:
    """One number, coloured by the steps it has reached; over time behind it where the query is not instant.

    `text`: "value", or "name" where the series' names say it all. `none`: what is shown when there is no series.
    """
    fields = {"color": {"mode": "thresholds"}, "thresholds": thresholds(base if steps else BLUE, steps), "noValue": none}
    options = {
        "colorMode": "value",
        "graphMode": "none" if query.instant else "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": text,
        "wideLayout": True,
    }
    return Panel("stat", title, description, unit, (query,), width, 4, fields, options=options)


def timeseries(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int,
    height: int = 8,
    stacked: bool = False,
    colors: Mapping[str, str] | None = None,
    axis: str = "",
    top: float | None = None,
) -> Panel:
    """Lines over time from 0 up; `stacked` where their sum means something. `colors` by series; `top`: what is full."""
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 40 if stacked else 8,
        "showPoints": "auto",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "axisLabel": axis,
        "axisPlacement": "auto",
    }
    fields: Json = {"color": {"mode": "palette-classic"}, "custom": custom, "min": 0}
    if top is not None:
        fields["max"] = top
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    overrides = tuple(_colored(name, color) for name, color in (colors or {}).items())
    return Panel("timeseries", title, description, unit, queries, width, height, fields, overrides, options)


def bar_gauge(
    title: str, description: str, unit: str, query: Query, *, width: int, height: int, steps: Sequence[tuple[float, str]]
) -> Panel:
    """A bar for each series, from 0 to 1."""
    fields = {"color": {"mode": "thresholds"}, "thresholds": thresholds(GREEN, steps), "min": 0, "max": 1, "noValue": "none in use"}
    options = {
        "displayMode": "basic",
        "minVizHeight": 12,
        "minVizWidth": 8,
        "maxVizHeight": 24,
        "namePlacement": "left",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
        "sizing": "manual",
        "valueMode": "color",
    }
    return Panel("bargauge", title, description, unit, (query,), width, height, fields, options=options)


def table(title: str, description: str, unit: str, query: Query, *, width: int, height: int, shown: str, link: str, uid: str) -> Panel:
    """One line for each series, greatest first: its labels and its value, which is called `shown`.

    `link`: a label whose values select themselves on the dashboard `uid`; the data source, the job and the time range stay.
    """
    options = {
        "showHeader": True,
        "cellHeight": "sm",
        "footer": {"show": False, "reducer": ["sum"], "countRows": False},
        "sortBy": [{"displayName": shown, "desc": True}],
    }
    kept = "var-datasource=${datasource}&${job:queryparam}&${__url_time_range}"
    url = f"/d/{uid}?var-{link}=${{__data.fields.{link}}}&{kept}"
    links = {"id": "links", "value": [{"title": f"Only this {link}", "url": url, "targetBlank": False}]}
    overrides = ({"matcher": {"id": "byName", "options": link}, "properties": [links]},)
    tidy = {"id": "organize", "options": {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": {"Value": shown}}}
    fields = {"custom": {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}, "noValue": "none"}
    return Panel("table", title, description, unit, (query,), width, height, fields, overrides, options, (tidy,))


def thresholds(base: str, steps: Iterable[tuple[float, str]]) -> Json:
    """A colour for what is below every step, and one from each step on."""
    return {"mode": "absolute", "steps": [{"color": base, "value": None}, *({"color": color, "value": value} for value, color in steps)]}


def dashboard(
    uid: str, title: str, description: str, variables: Sequence[Variable], annotations: Sequence[Json], rows: Sequence[Row]
) -> Json:
    """The whole, as Grafana loads it. It has no `id`: that is each Grafana's own."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["gateway"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [datasource_variable(), *(variable.json() for variable in variables)]},
        "annotations": {"list": list(annotations)},
        "links": [],
        "panels": _laid_out(rows),
    }


def event(name: str, expr_ms: str, text: str, color: str) -> Json:
    """A mark on every graph at each moment that `expr_ms` gives, in unix milliseconds."""
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "expr": expr_ms,
        "step": "60s",
        "titleFormat": name,
        "textFormat": text,
        "tagKeys": "instance",
        "useValueForTime": True,
    }


def _laid_out(rows: Sequence[Row]) -> list[Json]:
    """Every panel at its place. Panels of a collapsed row stand inside it, where they will be when it is opened."""
    shown: list[Json] = []
    number = y = 0
    for row in rows:
        inside = shown
        if row.title:
            number += 1
            head: Json = {"id": number, "type": "row", "title": row.title, "collapsed": row.collapsed, "panels": []}
            shown.append(head | {"gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y}})
            y += 1
            inside = shown[-1]["panels"] if row.collapsed else shown
        x = line_height = 0
        below = y
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, below = 0, below + line_height
                line_height = 0
            number += 1
            inside.append(panel.json(number, x, below))
            x += panel.width
            line_height = max(line_height, panel.height)
        y = y if row.collapsed else below + line_height
    return shown


def _target(query: Query, index: int, is_table: bool) -> Json:
    return {
        "refId": "ABCDEFGH"[index],
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "format": "table" if is_table else "time_series",
        "instant": query.instant,
        "range": not query.instant,
        "legendFormat": query.legend or "__auto",
    }


def _colored(name: str, color: str) -> Json:
    properties = [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}]
    return {"matcher": {"id": "byName", "options": name}, "properties": properties}
