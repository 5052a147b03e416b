"""Out of memory in the midst of a batch: whatever call it comes in, no record is left behind that
was not applied while the controller goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.backend import WRITE, ZERO
from duplexd.core.markers import Close, MakeCut
from duplexd.engine.batch import Batch
from duplexd.units import KIB
from tests.unit.engine.parts import Parts
from tests.unit.journal.journals import reopen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.core.markers import Marker
    from duplexd.core.pair import PairChange


class Calls:
    """Counts the calls on journal and legs; the `at`-th finds no memory."""

    def __init__(self, parts: Parts, at: int) -> None:
        self.count = 0
        self._at = at
        parts.disk.before = lambda _operation, _path: self._call()
        for legs in parts.legs.values():
            for leg in legs:
                leg.delay = lambda _operation: self._call()

    def _call(self) -> None:
        self.count += 1
        if self.count == self._at:
            raise MemoryError


def settled() -> Parts:
    """Parts whose first markers are in the journal."""
    parts = Parts()
    parts.timeline.when_at_rest(lambda: None)
    assert not parts.writer.staged
    return parts


def changes(parts: Parts) -> list[PairChange]:
    return [
        parts.change("data", 0, b"\x11" * 4 * KIB),
        parts.change("wal", 8 * KIB, b"", ZERO, 4 * KIB),
        parts.change("data", 2 * KIB, b"\x22" * 4 * KIB),
    ]


def run(parts: Parts, batch: Sequence[PairChange]) -> list[BaseException | None]:
    """Give it to the timeline as one batch; the errors that it was answered with."""
    answers: list[BaseException | None] = []
    made = Batch(batch, {}, False, lambda _batch, error: answers.append(error))
    with pytest.raises(MemoryError):
        parts.timeline.batch(made)
    return answers


CALLS = 1 + 2 * 3  # the journal, then two legs for each change


async def test_these_are_all_the_calls_of_a_batch() -> None:
    parts = settled()
    calls = Calls(parts, 0)
    parts.timeline.batch(Batch(changes(parts), {}, False, lambda _batch, _error: None))
    assert calls.count == CALLS


@pytest.mark.parametrize("at", range(1, CALLS + 1))
async def test_a_batch_is_answered_and_the_controller_fails(at: int) -> None:
    parts = settled()
    Calls(parts, at)
    (answer,) = run(parts, changes(parts))
    assert isinstance(answer, MemoryError)
    assert "MemoryError" in parts.timeline.failed


@pytest.mark.parametrize("at", range(1, CALLS + 1))
async def test_nothing_is_written_behind_what_was_not_applied(at: int) -> None:
    """A restart applies it: the records are the last ones."""
    parts = settled()
    before = parts.timeline.written
    batch = changes(parts)
    Calls(parts, at)
    run(parts, batch)
    with pytest.raises(OSError, match="unexpected error"):
        parts.timeline.append(Close())
    later = parts.send("data", 64 * KIB, b"later")
    assert later.error
    kinds = [record.kind for record in reopen(parts.disk).records if record.sequence > before]
    assert kinds in ([], [WRITE, ZERO, WRITE])


@pytest.mark.parametrize("at", range(2, CALLS + 1))
async def test_what_is_on_a_leg_has_a_record(at: int) -> None:
    parts = settled()
    before = parts.timeline.written
    Calls(parts, at)
    run(parts, changes(parts))
    assert len([each for each in reopen(parts.disk).records if each.sequence > before]) == 3


# -------------------------------------------------------------------------------------- markers


async def test_a_marker_that_meets_it_while_it_is_written_fails_the_controller() -> None:
    """Its states are in force, and the journal does not have it."""
    parts = settled()
    before = parts.timeline.written
    Calls(parts, 1)
    parts.timeline.when_at_rest(lambda: _append(parts, MakeCut("cut", "", [1])))
    assert "MemoryError" in parts.timeline.failed
    parts.disk.before = None
    assert parts.send("data", 0, b"later").error
    assert [each for each in reopen(parts.disk).records if each.sequence > before] == []


def _append(parts: Parts, marker: Marker) -> None:
    parts.timeline.append(marker)
