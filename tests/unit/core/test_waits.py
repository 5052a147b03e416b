"""How long writes waited: counted in small steps, merged without loss."""

from __future__ import annotations

import random

import pytest

from duplexd.core.waits import Waits, by_name, together, unpack

STEP = 2 ** (1 / 16)


def waits(*seconds: float) -> Waits:
    counted = Waits()
    for each in seconds:
        counted.add(each)
    return counted


def test_none_at_all() -> None:
    assert waits().figures() == {"count": 0, "max_s": 0.0, "p50_s": 0.0, "p99_s": 0.0}


def test_one_is_all_its_quantiles() -> None:
    counted = waits(0.0123)
    assert counted.max_s == 0.0123
    for part in (0.0, 0.5, 0.99, 1.0):
        assert counted.quantile(part) == pytest.approx(0.0123, rel=STEP - 1)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-9, 1e-6])
def test_what_is_shorter_than_the_unit_counts(seconds: float) -> None:
    assert waits(seconds).count == 1
    assert list(waits(seconds).buckets) == [0]


@pytest.mark.parametrize("seed", range(5))
def test_quantiles_are_right_to_a_step(seed: int) -> None:
    draw = random.Random(seed)
    seconds = sorted(draw.lognormvariate(-6, 2) for _ in range(1000))
    counted = waits(*seconds)
    for part, exact in ((0.5, seconds[499]), (0.99, seconds[989]), (1.0, seconds[999])):
        assert exact / STEP <= counted.quantile(part) <= exact * STEP


def test_no_quantile_exceeds_the_longest() -> None:
    counted = waits(*[0.0101] * 99, 0.0102)
    assert counted.quantile(0.99) <= counted.quantile(1.0) <= counted.max_s == 0.0102


def test_merging_is_counting_all() -> None:
    one, two = waits(0.001, 0.5), waits(0.001, 2.0, 0.03)
    both = together([one, two])
    every = waits(0.001, 0.5, 0.001, 2.0, 0.03)
    assert (both.buckets, both.figures()) == (every.buckets, every.figures())
    assert one.count == 2, "what was merged is as it was"


def test_packed_for_another_machine() -> None:
    counted = waits(0.001, 0.001, 0.25)
    again = unpack(counted.pack(), counted.max_s)
    assert (again.buckets, again.figures()) == (counted.buckets, counted.figures())


def test_by_name() -> None:
    assert by_name({"data": waits(0.5), "wal": waits()}) == {
        "data": waits(0.5).figures(),
        "wal": waits().figures(),
    }
