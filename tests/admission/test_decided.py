"""Ids that were seen: first come, settled once, bounded."""

from __future__ import annotations

from gateway.admission import Admitted, Reservation
from gateway.admission.decided import Decided


def admitted(exchange_id: str) -> Admitted:
    return Admitted(Reservation(exchange_id, (), (), ()), ())


def test_an_open_and_a_settled_admission_are_both_remembered() -> None:
    decided = Decided()
    assert decided.first("a") is None
    decided.admit(admitted("a"))
    assert decided.first("a") == admitted("a")
    assert decided.settle("a")
    assert decided.first("a") == admitted("a")
    assert not decided.settle("a")


def test_an_id_never_seen_is_settled_once_too() -> None:
    decided = Decided()
    assert decided.settle("from elsewhere")
    assert not decided.settle("from elsewhere")
    assert decided.first("from elsewhere") is None


def test_the_settled_are_forgotten_in_their_order_and_the_open_are_not() -> None:
    decided = Decided(open_max=100, recent_max=10)
    decided.admit(admitted("open"))
    for number in range(1000):
        decided.admit(admitted(str(number)))
        assert decided.settle(str(number))
        assert len(decided) <= 1 + 20
    assert not decided.settle("991")  # the last ten at least are known
    assert decided.settle("1")
    assert decided.first("open") is not None


def test_more_open_than_the_maximum_are_bounded_and_the_youngest_are_kept() -> None:
    decided = Decided(open_max=10, recent_max=10)
    for number in range(1000):
        decided.admit(admitted(str(number)))
        assert len(decided) <= 20
    assert all(decided.first(str(number)) is not None for number in range(990, 1000))
    assert decided.settle("995")
    assert not decided.settle("995")
