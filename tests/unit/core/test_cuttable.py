"""Which pairs can be suspended at one cut, and what an error says of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.core.cuttable import check_can_be_cut
from duplexd.core.markers import Attach, Copy, MakeCut
from duplexd.errors import WrongStateError
from tests.unit.core.ledgers import Story, changed, served

if TYPE_CHECKING:
    from duplexd.core.pair import Pair


def pairs(*names: str) -> tuple[Story, list[Pair]]:
    story = Story(*names)
    return story, [served(record) for record in story.ledger.pairs.values()]


def test_pairs_that_are_all_duplex_can_be_cut_together() -> None:
    story, both = pairs("data", "wal")
    story.mark(Attach([1, 2]))
    check_can_be_cut(both)


def test_every_pair_in_the_way_is_named_with_its_reason_and_what_to_do() -> None:
    story, three = pairs("data", "wal", "log")
    story.mark(Attach([1, 2]))
    story.mark(MakeCut("c1", "", [1]))
    story.mark(Copy({3: changed(0)}, "first copy"))
    with pytest.raises(WrongStateError) as caught:
        check_can_be_cut(three)
    assert str(caught.value) == (
        "only pairs that are all DUPLEX can be suspended at one cut: "
        "data is SUSPENDED (by command), log is PENDING (first copy); "
        "resync --wait brings suspended pairs back"
    )


def test_a_copy_has_to_be_waited_for() -> None:
    story, one = pairs("data")
    story.mark(Copy({1: changed(0)}, "first copy"))
    with pytest.raises(WrongStateError, match="; wait until they are DUPLEX"):
        check_can_be_cut(one)


def test_a_volume_without_secondary_cannot_be_cut() -> None:
    _, one = pairs("data")
    with pytest.raises(WrongStateError, match="data is SIMPLEX; a volume without secondary"):
        check_can_be_cut(one)


def test_a_long_list_is_cut_short() -> None:
    _, seven = pairs(*"abcdefg")
    with pytest.raises(WrongStateError, match="e is SIMPLEX and 2 more;"):
        check_can_be_cut(seven)
