"""What a client that remembers things of a volume may go on after, and what not."""

from __future__ import annotations

import pytest

from duplexd.core.markers import (
    Attach,
    Close,
    MakeCut,
    NewVolume,
    Open,
    Rollback,
    Swap,
)
from tests.unit.core.ledgers import Story, through_a_checkpoint

DUPLEX, CUT, OTHER = 1, 2, 3


def story() -> Story:
    """A DUPLEX pair, one that is at a cut, and a volume without a secondary."""
    story = Story("duplex", "cut", "other")
    story.mark(Attach([DUPLEX, CUT]))
    story.mark(MakeCut("c1", "", [CUT]))
    return story


def lineages(story: Story) -> list[int]:
    return [story.pair(number).lineage for number in (DUPLEX, CUT, OTHER)]


def test_each_volume_has_one_from_its_beginning() -> None:
    assert all(lineages(story()))
    assert len(set(lineages(story()))) == 3


@pytest.mark.parametrize(
    ("marker", "anew"),
    [
        (Open("boot-1"), []),
        (Open("boot-2", lost=True), [DUPLEX, CUT, OTHER]),
        (Close(), []),
        (MakeCut("c2", "", [DUPLEX]), []),
        (Swap([DUPLEX]), []),
        (Swap([CUT]), [CUT]),
        (Rollback("r", "c1", [CUT]), [CUT]),
        (NewVolume(4, "new", 1 << 20), []),
    ],
)
def test_it_is_new_where_the_content_does_not_follow_from_what_clients_were_answered(
    marker: Open | Close | MakeCut | Swap | Rollback | NewVolume, anew: list[int]
) -> None:
    told = story()
    before = lineages(told)
    told.mark(marker)
    changed = [
        number
        for number, old, new in zip((DUPLEX, CUT, OTHER), before, lineages(told), strict=True)
        if old != new
    ]
    assert changed == anew


def test_it_is_new_when_an_image_is_adopted() -> None:
    told = story()
    before = lineages(told)
    told.ledger.adopted(told.pair(OTHER))
    assert [old != new for old, new in zip(before, lineages(told), strict=True)] == [
        False,
        False,
        True,
    ]


def test_a_restart_finds_the_same() -> None:
    told = story()
    again = through_a_checkpoint(told.ledger, told.sequence)
    assert [again.pairs[number].lineage for number in (DUPLEX, CUT, OTHER)] == lineages(told)
