"""The dashboards as JSON: what Grafana needs, what readers need, and nothing that the gateway does not export.

No Grafana can be had where the tests run: neither Debian nor PyPI nor npm has one. npm has Grafana's own types of a dashboard
and of each kind of panel; the JSON must be a value of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.dashboards import ALL, DASHBOARDS, filled
from gateway.dashboards.__main__ import write
from gateway.dashboards.panels import Panel, Query, Row, dashboard, stat, timeseries
from gateway.metrics import Families

SHIPPED = Path(__file__).parents[2] / "grafana"
NODE = Path(__file__).parent / "node"
MADE_BY_PROMETHEUS = {"up"}
MACROS = {"__rate_interval", "__range"}
Json = dict[str, Any]


def panels(found: Json) -> Iterator[Json]:
    """Every panel that shows something, those of closed rows too."""
    for panel in found["panels"]:
        yield from panel["panels"] if panel["type"] == "row" and panel["collapsed"] else () if panel["type"] == "row" else (panel,)


def queries(found: Json) -> Iterator[str]:
    """Everything that is asked of Prometheus."""
    yield from (target["expr"] for panel in panels(found) for target in panel["targets"])
    yield from (mark["expr"] for mark in found["annotations"]["list"])
    yield from (each["query"]["query"] for each in found["templating"]["list"] if each["type"] == "query")


@pytest.fixture(params=DASHBOARDS)
def shown(request: pytest.FixtureRequest) -> Json:
    """Each dashboard."""
    return DASHBOARDS[request.param]()


def test_the_files_are_what_the_code_gives(tmp_path: Path) -> None:
    write(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {path.name: path.read_bytes() for path in (SHIPPED / "dashboards").iterdir()} == made, (
        "run: python -m gateway.dashboards grafana/dashboards"
    )
    write(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == made


def exported() -> dict[str, set[str]]:
    """The samples that the gateway shows, by name, with their labels."""
    families, found = Families(10), {}
    for name, series in vars(families).items():
        if hasattr(series, "child") and not name.startswith("_"):
            series.child(*["x"] * len(series.labels))
    for family in families.registry.collect():
        for sample in family.samples:
            found[sample.name] = set(sample.labels)
    return found


def test_only_what_the_gateway_exports_is_asked_for(shown: Json) -> None:
    known = exported()
    labels_of_prometheus = {"job", "instance"}
    seen = set()
    for query in queries(shown):
        for metric, selector in re.findall(r"\b(gateway_\w+|up)\b(?:\{([^}]*)\})?", query):
            seen.add(metric)
            assert metric in known.keys() | MADE_BY_PROMETHEUS, query
            labels = set(re.findall(r'(\w+)(?:=|!=|=~|!~)"', selector))
            assert labels <= known.get(metric, set()) | labels_of_prometheus, query
    assert len(seen) > 15


def test_counters_are_only_seen_through_rates(shown: Json) -> None:
    for query in queries(shown):
        if "label_values" not in query:
            for before in re.findall(r"(\w+\()?gateway_\w+_(?:total|bucket)\b", query):
                assert before in ("rate(", "increase("), query


def test_every_query_is_of_the_chosen_job_and_fits_every_interval(shown: Json) -> None:
    variables = {each["name"] for each in shown["templating"]["list"]}
    for query in queries(shown):
        if not query.startswith("label_values(gateway_build_info"):
            selectors = re.findall(r"\b(?:gateway_\w+|up)\{([^}]*)\}", query)
            assert selectors, query
            assert all('job=~"$job"' in selector for selector in selectors), query
        assert set(re.findall(r"\$(\w+)", query)) <= variables | MACROS, query
        assert not re.search(r"\[\d", query), f"a range of its own: {query}"
        assert "$" not in filled(query, {}, rate_interval="1m", time_range="6h")
    for panel in panels(shown):
        for target in panel["targets"]:
            assert ("$__range]" not in target["expr"]) or target["instant"], f"{panel['title']}: over the whole range at each point"


def test_every_panel_says_what_it_shows_and_in_which_unit(shown: Json) -> None:
    titles = [panel["title"] for panel in panels(shown)]
    assert len(titles) == len(set(titles))
    for panel in panels(shown):
        assert re.fullmatch(r"[A-Z(].{20,}\.", panel["description"]), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        ratio = re.search(r"_ratio|clamp_min", panel["targets"][0]["expr"])
        seconds = re.search(r"_seconds", panel["targets"][0]["expr"])
        money = re.search(r"_usd", panel["targets"][0]["expr"])
        wanted = "percentunit" if ratio else "s" if seconds else "currencyUSD" if money else None
        assert wanted in (None, panel["fieldConfig"]["defaults"]["unit"]), panel["title"]


def places(found: Json) -> list[list[Json]]:
    """Panels that are seen together: all open ones, and those of each closed row with what is open before it."""
    opened = [panel for panel in found["panels"] if not (panel["type"] == "row" and panel["collapsed"])]
    closed = [panel for panel in found["panels"] if panel["type"] == "row" and panel["collapsed"]]
    return [opened + closed, *([*opened, row, *row["panels"]] for row in closed)]


def overlap(one: Json, other: Json) -> bool:
    a, b = one["gridPos"], other["gridPos"]
    return bool(a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"])


def test_panels_stand_in_the_grid_and_none_on_another(shown: Json) -> None:
    for seen in places(shown):
        for panel in seen:
            place = panel["gridPos"]
            assert place["x"] >= 0
            assert place["w"] > 0
            assert place["x"] + place["w"] <= 24, panel["title"]
        for one, other in combinations(seen, 2):
            assert not overlap(one, other), (one["title"], other["title"])


def test_every_line_of_the_grid_is_full(shown: Json) -> None:
    lines: dict[int, list[Json]] = {}
    for panel in [*panels(shown), *(panel for panel in shown["panels"] if panel["type"] == "row")]:
        lines.setdefault(panel["gridPos"]["y"], []).append(panel["gridPos"])
    for y, line in lines.items():
        assert sum(place["w"] for place in line) == 24, f"line {y}"
        assert len({place["h"] for place in line}) == 1, f"line {y}"


def test_a_line_that_is_full_goes_on_below_and_closed_rows_keep_theirs() -> None:
    def block(width: int) -> Panel:
        return timeseries("t", "d", "s", Query("up"), width=width, height=5)

    found = dashboard("u", "t", "d", (), (), [Row("", [block(12), block(13)]), Row("a", [block(24)], collapsed=True), Row("b", [block(1)])])
    first, second, closed, opened, last = found["panels"]
    assert [(each["gridPos"]["x"], each["gridPos"]["y"]) for each in (first, second, closed, opened, last)] == [
        (0, 0), (0, 5), (0, 10), (0, 11), (0, 12),
    ]  # fmt: skip
    assert closed["panels"][0]["gridPos"]["y"] == 11
    assert [each["id"] for each in (first, second, closed, *closed["panels"], opened, last)] == [1, 2, 3, 4, 5, 6]


def test_what_grafana_keeps_apart_is_apart(shown: Json) -> None:
    assert re.fullmatch(r"[a-z0-9-]{8,40}", shown["uid"])
    assert "id" not in shown, "each Grafana gives its own"
    assert shown["schemaVersion"] >= 36
    assert shown["editable"] is False
    everything = [*shown["panels"], *(inner for row in shown["panels"] for inner in row.get("panels", ()))]
    ids = [panel["id"] for panel in everything]
    assert len(ids) == len(set(ids))
    for panel in panels(shown):
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))
        assert {each["datasource"]["uid"] for each in [panel, *panel["targets"]]} == {"${datasource}"}, "none is wired in"


def test_dashboards_have_uids_of_their_own() -> None:
    uids = [build()["uid"] for build in DASHBOARDS.values()]
    assert len(uids) == len(set(uids))


def test_variables_can_be_all_and_are_used(shown: Json) -> None:
    datasource, *chosen = shown["templating"]["list"]
    assert (datasource["name"], datasource["type"], datasource["query"]) == ("datasource", "datasource", "prometheus")
    asked = " ".join(queries(shown))
    for variable in chosen:
        assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (True, True, ALL)
        assert variable["current"]["value"] == ["$__all"]
        assert f"${variable['name']}" in asked
    for operator, value in re.findall(r'(=~|!~|!=|=)"([^"]*)"', asked):
        assert operator == "=~" or "$" not in value, f"several values, or all, do not fit {operator}"


FILLED = [
    ("all", {}, 'x{team=~".+"}'),
    ("one", {"team": ("voice",)}, 'x{team=~"voice"}'),
    ("several", {"team": ("voice", "search")}, 'x{team=~"(voice|search)"}'),
    ("a name with a dot and a plus", {"team": ("a.b+c",)}, r'x{team=~"a\\.b\\+c"}'),
    ("another variable", {"model": ("voice",)}, 'x{team=~".+"}'),
]


@pytest.mark.parametrize("chosen,query", [row[1:] for row in FILLED], ids=[row[0] for row in FILLED])
def test_a_choice_is_filled_in_as_grafana_does(chosen: dict[str, tuple[str, ...]], query: str) -> None:
    assert filled('x{team=~"$team"}', chosen, rate_interval="1m", time_range="6h") == query


def test_intervals_are_filled_in() -> None:
    assert (
        filled("rate(x[$__rate_interval]) + increase(x[$__range])", {}, rate_interval="1m", time_range="6h")
        == "rate(x[1m]) + increase(x[6h])"
    )


def test_a_number_without_thresholds_claims_no_colour() -> None:
    plain = stat("t", "d", "s", Query("up"), width=3).json(1, 0, 0)
    judged = stat("t", "d", "s", Query("up"), width=3, steps=((1, "red"),)).json(1, 0, 0)
    steps = [each["fieldConfig"]["defaults"]["thresholds"]["steps"] for each in (plain, judged)]
    assert steps == [[{"color": "blue", "value": None}], [{"color": "green", "value": None}, {"color": "red", "value": 1}]]


def test_provisioning_points_at_what_is_shipped() -> None:
    (source,) = yaml.safe_load((SHIPPED / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((SHIPPED / "provisioning/dashboards/gateway.yaml").read_text())["providers"]
    scraping = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == scraping["global"]["scrape_interval"]
    assert provider["type"] == "file"
    readme = (SHIPPED / "README.md").read_text()
    for variable in re.findall(r"\$\{(\w+)\}", source["url"] + provider["options"]["path"]):
        assert len(re.findall(rf"{variable}=", readme)) == 2, f"{variable}: installed and in a container"
    (job,) = scraping["scrape_configs"]
    assert f"> {job['authorization']['credentials_file']}" in readme
    assert job["authorization"]["credentials_file"] in (SHIPPED / ".gitignore").read_text().split()


@pytest.fixture
def typescript() -> Callable[[Path], str]:
    """What Grafana's types say of a file. On a bare machine the test is skipped; in CI they must be there."""
    node, compiler = shutil.which("node"), NODE / "node_modules" / "typescript" / "bin" / "tsc"
    missing = "there is no `node`" if node is None else "`npm install` was not run in tests/dashboards/node"
    if node is None or not compiler.is_file():
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)

    def check(path: Path) -> str:
        options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler", "--target", "esnext"]
        done = subprocess.run([node, compiler, *options, path], capture_output=True, text=True, timeout=300, check=False)
        return done.stdout + done.stderr

    return check


FAULTS = [
    ('"colorMode": "value"', '"colorMode": "loud"'),
    ('"displayMode": "table"', '"displayMod": "table"'),
    ('"drawStyle": "line"', '"drawStyle": "dots"'),
    ('"displayMode": "basic"', '"displayMode": "gradiant"'),
    ('"cellHeight": "sm"', '"cellHeight": "small"'),
    ('"schemaVersion": 39', '"schemaVersion": "39"'),
    ('"legendFormat": "calls"', '"legend": "calls"'),
    ('"collapsed": true', '"collapsed": "yes"'),
]


def test_grafanas_own_types_take_the_dashboards_and_no_planted_fault(tmp_path: Path, typescript: Callable[[Path], str]) -> None:
    shutil.copy(NODE / "shape.ts", tmp_path)
    (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
    texts = [json.dumps(build(), indent=1) for build in DASHBOARDS.values()]
    for right, wrong in FAULTS:
        texts.append(
            re.sub(
                rf"^.*{re.escape(right)}",
                lambda found, of=(right, wrong): f"// @ts-expect-error\n{found[0].replace(*of)}",
                texts[0],
                count=1,
                flags=re.MULTILINE,
            )
        )
        assert texts[-1] != texts[0], right
    lines = ['import type { Whole } from "./shape";', *(f"export const d{index}: Whole = {text};" for index, text in enumerate(texts))]
    (tmp_path / "dashboards.ts").write_text("\n".join(lines))
    assert typescript(tmp_path / "dashboards.ts") == ""
