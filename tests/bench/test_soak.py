"""What the soak takes for a fault."""

from __future__ import annotations

from tests.bench.soak import Interval, faults

WARMING_UP = Interval(10.0, 20, [0.5] * 100)
EARLY = Interval(300.0, 1090, [0.001] * 95 + [0.010] * 5)


def test_nothing_is_wrong_if_all_stays_as_it_was() -> None:
    assert faults([WARMING_UP, EARLY, EARLY], 20, 20) == []


def test_memory_that_grew() -> None:
    late = Interval(400.0, 1090, EARLY.waits_s)
    assert faults([WARMING_UP, EARLY, late], 20, 20) == ["memory grew from 300.0 to 400.0 MiB"]


def test_sockets_that_were_not_closed() -> None:
    assert faults([WARMING_UP, EARLY, EARLY], 20, 23) == ["3 sockets were not closed"]


def test_writes_that_became_slower() -> None:
    late = Interval(300.0, 1090, [0.001] * 95 + [0.050] * 5)
    assert faults([WARMING_UP, EARLY, late], 20, 20) == ["p99 went from 10.0 to 50.0 ms"]
