"""The corpus replayed without the fuzzer, and mutated a little: what was found once stays mended, on every machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .corpus import CORPUS, inputs
from .table import TARGETS
from .target import CONTROL_BYTES, MARK, Target, check_growth

LONG = os.environ.get("CI") == "1"
MUTATIONS = 150 if LONG else 40  # of each target; a fuzzer does as many in a tenth of a second
CORPUS_BYTES_MAX = 1_000_000
GROWING = [name for name, target in TARGETS.items() if target.is_growth]
READERS = [name for name in TARGETS if name not in GROWING]


@pytest.mark.parametrize("name", READERS)
def test_every_input_that_was_kept_holds(name: str) -> None:
    for title, data in inputs(TARGETS[name]):
        _check(TARGETS[name], data, title)


@pytest.mark.parametrize("name", GROWING)
def test_work_that_grew_too_fast_once_does_not_again(name: str) -> None:
    folder = CORPUS / name
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        _check(TARGETS[name], path.read_bytes(), path.name)


@pytest.mark.parametrize("name", READERS)
def test_a_kept_input_with_other_bytes_in_it_holds(name: str) -> None:
    target = TARGETS[name]
    kept = st.sampled_from([data for _, data in inputs(target)])

    @settings(max_examples=MUTATIONS, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(kept, kept, st.binary(max_size=2 * CONTROL_BYTES), st.tuples(*[st.floats(0, 1)] * 4))
    def mutated(one: bytes, other: bytes, made: bytes, places: tuple[float, ...]) -> None:
        end, after, begin, stop = (round(place * len(data)) for place, data in zip(places, (one, one, other, other), strict=True))
        target.check((one[:end] + made + other[begin:stop] + one[after:])[: target.input_bytes_max])

    mutated()


def test_the_corpus_is_small_and_belongs_to_targets() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < CORPUS_BYTES_MAX
    assert {path.parent.name for path in files} <= set(TARGETS)
    for path in files:
        assert path.stat().st_size <= 65_536, f"{path.name} is too long to be read by a person, or fast"


# The harness can fail


@pytest.mark.parametrize(("power", "found"), [(1, False), (2, True), (3, True)], ids=["linear", "quadratic", "cubic"])
def test_work_that_grows_faster_than_its_input_is_found(power: int, found: bool) -> None:
    now_s = 0.0

    def reads(data: bytes) -> None:
        nonlocal now_s
        now_s += (len(data) / 100_000) ** power

    with pytest.raises(AssertionError, match="times the work") if found else nullcontext():
        check_growth(b"a" + MARK + b"bc" + MARK + b"d", reads, lambda: now_s)


def _broken(data: bytes) -> None:
    assert b"\x00\x07" not in data


def test_a_broken_promise_names_the_input_that_broke_it() -> None:
    target = Target("broken", _broken, dict)
    with pytest.raises(AssertionError, match="what is in the file"):
        _check(target, b"\x00\x07", "what is in the file")


def _check(target: Target, data: bytes, title: str) -> None:
    check: Callable[[bytes], None] = target.check
    try:
        check(data)
    except Exception as error:
        raise AssertionError(f"{target.name}, {title}: {type(error).__name__}: {error}") from error
