"""Our histogram shows what prometheus-client's does, whatever it is given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from gateway.metrics.distribution import DistributionFamily
from gateway.metrics.families import BODY_BUCKETS, DURATION_BUCKETS, ESTIMATE_ERROR_BUCKETS, OVERHEAD_BUCKETS

EDGES = [DURATION_BUCKETS, BODY_BUCKETS, OVERHEAD_BUCKETS, ESTIMATE_ERROR_BUCKETS]


@pytest.mark.parametrize("edges", EDGES, ids=["durations", "large numbers", "small numbers", "below zero"])
@given(
    batches=st.lists(st.lists(st.floats(-10, 1e8) | st.sampled_from([edge for edges in EDGES for edge in edges]), max_size=5), max_size=5)
)
def test_it_shows_what_the_library_shows(edges: tuple[float, ...], batches: list[list[float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    family = DistributionFamily("a_seconds", "A text", ("team", "model"), edges, ours)
    oracle = Histogram("a_seconds", "A text", ("team", "model"), buckets=edges, registry=theirs)
    for number, batch in enumerate(batches):
        labels = (f"team-{number % 2}", 'x"}\n')
        family.labels(*labels).observe(*batch)
        for value in batch:
            oracle.labels(*labels).observe(value)
        oracle.labels(*labels)
    (ours_exact, ours_sums), (theirs_exact, theirs_sums) = lines_and_sums(ours), lines_and_sums(theirs)
    assert ours_exact == theirs_exact
    assert ours_sums == pytest.approx(theirs_sums)


def lines_and_sums(registry: CollectorRegistry) -> tuple[list[str], list[float]]:
    """Sums apart, since floats may be added in another order; and without times of creation, which the house switches off."""
    lines = [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]
    sums = [float(line.rpartition(" ")[2]) for line in lines if "_sum{" in line]
    return [line for line in lines if "_sum{" not in line], sums


def test_what_is_removed_is_shown_no_more() -> None:
    registry = CollectorRegistry()
    family = DistributionFamily("a_seconds", "A text", ("team",), DURATION_BUCKETS, registry)
    for team in ("voice", "search"):
        family.labels(team).observe(1.0)
    family.remove("voice")
    text = generate_latest(registry).decode()
    assert 'team="search"' in text
    assert 'team="voice"' not in text
