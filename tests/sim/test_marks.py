"""What was said of marks outlives every crash, and what is called within reach can be reached; a
mistake in either is found.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from duplexd.core import mark_reach
from duplexd.core.mark_book import MarkBook
from duplexd.core.mark_reach import THE_TAIL, Reach
from tests.sim.marking import run

if TYPE_CHECKING:
    from duplexd.core.pair import PairRecord

SHORT, LONG, CHUNK = 12, 2012, 100


def test_marks_over_crashes() -> None:
    compared = sum(map(run, range(SHORT)), Counter[str]())
    print(dict(compared))
    assert min(compared["reached"], compared["not reached"]) * 4 > SHORT


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(SHORT, LONG, CHUNK))
def test_marks_over_many_crashes(first: int) -> None:
    print(dict(sum(map(run, range(first, first + CHUNK)), Counter[str]())))


def found(text: str, seeds: range) -> None:
    with pytest.raises(AssertionError, match=text) as caught:
        sum(map(run, seeds), Counter[str]())
    print(str(caught.value)[-400:])


_of = mark_reach.of


def _believes_in_records(pair: PairRecord, at: int, oldest: int) -> Reach:
    """Whatever changed without one."""
    before, pair.unrecorded = pair.unrecorded, 0
    try:
        return _of(pair, at, oldest)
    finally:
        pair.unrecorded = before


def _goes_backwards(pair: PairRecord, at: int, oldest: int) -> Reach:
    """A little."""
    reach = _of(pair, at, oldest)
    return reach._replace(first=max(0, reach.first - 20)) if reach.last == THE_TAIL else reach


@pytest.mark.parametrize(
    ("mistake", "seeds"),
    [(_believes_in_records, range(170, 190)), (_goes_backwards, range(20))],
)
def test_a_reach_that_is_too_long_is_found(mistake: object, seeds: range) -> None:
    with mock.patch.object(mark_reach, "of", mistake):
        found("is called within reach", seeds)


def test_a_checkpoint_that_forgets_marks_is_found() -> None:
    with mock.patch.object(MarkBook, "pack", return_value={}):
        found("was answered and is lost|before the crash", range(20))
