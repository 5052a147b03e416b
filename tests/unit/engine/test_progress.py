from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, cast

import pytest

from duplexd.core.since import Since
from duplexd.engine.recovery import progress
from duplexd.engine.recovery.progress import Progress
from duplexd.engine.recovery.read import fold
from duplexd.journal.format import RECORD_HEADER_BYTES, TRIM, Record
from tests.unit.core.ledgers import Story

if TYPE_CHECKING:
    from duplexd.journal.recover import Walk

STAGES = [
    progress.JOURNAL,
    progress.OPENING,
    progress.PRIMARIES,
    progress.SECONDARIES,
    progress.FINISHING,
]


def test_the_stages_of_a_start_follow_each_other_from_0_to_1() -> None:
    seen = [Progress(stage, done, 10).fraction for stage in STAGES for done in range(11)]
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)


def test_what_is_not_known_or_grew_meanwhile_does_not_leave_its_stage() -> None:
    begins = Progress(progress.PRIMARIES).fraction
    assert Progress(progress.PRIMARIES, 7, 0).fraction == begins
    ends = Progress(progress.SECONDARIES).fraction
    assert Progress(progress.PRIMARIES, 11, 10).fraction == ends


@pytest.mark.parametrize("stage", STAGES)
def test_its_text_says_how_far_and_at_what(stage: str) -> None:
    at = Progress(stage, 1, 2)
    assert str(at) == f"recovering, {int(at.fraction * 100)} % ({stage})"


def test_a_journal_of_many_small_records_is_seen_to_be_read() -> None:
    ledger, records, reported = Story("data").ledger, 30_000, list[int]()
    walk = (
        (b"", Record(number, TRIM, 0, 1, 0, 4096, 0, 0, 0, number, 0, 0, 0, 0))
        for number in range(2, 2 + records)
    )
    fold(cast("Walk", walk), ledger, Since(ledger, 1, 0), reported.append)
    seen = [0, *reported, records * RECORD_HEADER_BYTES]
    assert max(after - before for before, after in itertools.pairwise(seen)) < 2 << 20
