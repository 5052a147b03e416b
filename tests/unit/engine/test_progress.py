from __future__ import annotations

import pytest

from duplexd.engine.recovery import progress
from duplexd.engine.recovery.progress import Progress

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
