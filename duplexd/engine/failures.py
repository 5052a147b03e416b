"""What failing legs do to states, so that clients see as few errors as possible.

A failed secondary suspends its pair and its group at the number before the change that failed; the
clients see success. A failed primary write is answered with its error, and what the primary holds
there now is journaled as a new change, so that a replay after a crash restores on both legs what
clients read in between. Everything here happens at rest, directly after the batch that met the
failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.backend import WRITE, ZERO, Change
from duplexd.core import freeze, pair_states
from duplexd.core.pair import PairChange
from duplexd.engine.apply import Batch
from duplexd.engine.cut_archive import new_id
from duplexd.engine.hung import leave_hung

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.cut import Cut
    from duplexd.core.markers import Fail
    from duplexd.core.pair import Pair
    from duplexd.engine.apply import PrimaryFailure, SecondaryFailure
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.events import Events
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.limits import EngineLimits


class _Nobody:
    """The client of changes that the engine itself makes."""

    def finished(self, change: Change) -> None:
        """No connection waits for it."""

    def flush_replies(self) -> None:
        """Nothing to send."""


_NOBODY = _Nobody()


class Failures:
    """The consequences of failing legs. All methods at rest."""

    def __init__(
        self,
        timeline: Timeline,
        volumes: Volumes,
        archive: CutArchive,
        events: Events,
        limits: EngineLimits,
    ) -> None:
        self._timeline = timeline
        self._volumes = volumes
        self._archive = archive
        self._events = events
        self._record_bytes_max = limits.record_bytes_max

    def after(self, batch: Batch) -> None:
        """React to what failed in a batch. Raises OSError if the journal cannot be written.

        Once the controller has failed, nothing is written to the journal: a restart replays it.
        """
        for failure in batch.failures:
            self._secondary_failed(batch, failure, failure.sequence - 1)
        for primary_failure in batch.primary_errors:
            if not self._timeline.failed:
                self._compensate(primary_failure)

    def _secondary_failed(self, batch: Batch, failure: SecondaryFailure, at: int) -> None:
        """Suspend the pair and its group at number `at`, the last that its secondary holds."""
        pair = failure.pair
        members = self._volumes.group_of(pair)
        missed = {member: _changes_after(member, batch.changes, at) for member in members}
        if failure.lost:
            missed[pair].set_all()
        torn = {pair} if failure.torn else set()
        self.freeze(members, pair, at, failure.error, torn, missed)

    def freeze(
        self,
        members: Iterable[Pair],
        failed: Pair,
        at: int,
        error: OSError,
        unusable: Iterable[Pair],
        missed: Mapping[Pair, ChangeMap],
    ) -> None:
        """Suspend pairs because a secondary failed, at number `at`; see `core/freeze.py`."""
        why = _with_path(error, failed)
        leave_hung(failed, error)
        for marker in freeze.plan(members, failed, at, why, unusable, missed, new_id):
            self._freeze_at(marker, failed, error)

    def _freeze_at(self, marker: Fail, failed: Pair, error: OSError) -> None:
        members = [self._volumes.by_number[number] for number in marker.volumes]
        left = {cut for member in members if (cut := _group_cut(member)) is not None}
        timeline = self._timeline
        timeline.must(lambda: timeline.append(marker))  # else its secondary would count as current
        self._events.emit(
            "suspended",
            volumes=[member.name for member in members],
            reason=pair_states.BY_ERROR,
            cut=marker.id,
            failed=failed.name,
            error=error.strerror or str(error),
            path=_path_of(error, failed),
            at=marker.at,
        )
        for cut in left:  # void now, whatever was announced
            self._archive.announce(cut)

    def _compensate(self, failure: PrimaryFailure) -> None:
        """A primary did not take a change that is in the journal: journal what it holds there."""
        change, pair = failure.change, failure.change.volume
        why = failure.error.strerror or str(failure.error)
        self._events.emit("primary-error", volume=pair.name, error=why, path=pair.primary.path)
        end = change.offset + change.length
        for offset in range(change.offset, end, self._record_bytes_max):
            length = min(self._record_bytes_max, end - offset)
            data = bytearray(length)
            try:
                pair.primary.read_into(offset, memoryview(data))
            except OSError as unreadable:
                self._timeline.fail(
                    f"{pair.primary.path}: a write failed and the range can't be read back: "
                    f"{unreadable.strerror}"
                )
                return
            self._redo(pair, offset, data)

    def _redo(self, pair: Pair, offset: int, data: bytearray) -> None:
        """Nothing is lost if the primary fails to write its own content: it holds it already.

        Zeroes are journaled as such: they may be a hole that could not be filled, and the journal
        may not have room for that many bytes.
        """
        if data.count(0) == len(data):
            again = PairChange(_NOBODY, 0, pair, ZERO, offset, len(data))
        else:
            again = PairChange(_NOBODY, 0, pair, WRITE, offset, len(data), data)
        batch = Batch([again], {}, False, _no_answer)
        self._timeline.redo(batch)
        for failure in batch.failures:
            # A repair gives the secondary what the primary holds: here, the change itself.
            at = failure.sequence - 1 if failure.torn else failure.sequence
            self._secondary_failed(batch, failure, at)


def _no_answer(_batch: Batch, _error: BaseException | None) -> None:
    """No client asked for it."""


def _group_cut(pair: Pair) -> Cut | None:
    """The cut with other controllers that a pair is suspended at: its failure makes it void."""
    cut = pair.cut
    at_group_cut = cut is not None and cut.members and pair.state == pair_states.SUSPENDED
    return cut if at_group_cut else None


def _changes_after(pair: Pair, changes: Sequence[PairChange], sequence: int) -> ChangeMap:
    """What those changes of the pair that come after number `sequence` touch."""
    changed = pair.new_map()
    for change in changes:
        if change.volume is pair and change.sequence > sequence:
            changed.set(change.offset, change.length)
    return changed


def _with_path(error: OSError, failed: Pair) -> str:
    """What failed, with the image's path, which some errors name themselves."""
    why, path = error.strerror or str(error), _path_of(error, failed)
    return why if path in why else f"{path}: {why}"


def _path_of(error: OSError, failed: Pair) -> str:
    """Of the image that failed: the secondary, if the error does not say otherwise."""
    if isinstance(error.filename, str):
        return error.filename
    return failed.secondary.path if failed.secondary is not None else ""
