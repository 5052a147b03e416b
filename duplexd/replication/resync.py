"""Resyncs: bringing suspended secondaries back to DUPLEX, and waiting for it.

Which way a resync goes is decided once, for all pairs that are resynced together: replay the
journal if it still reaches back to every cut and would copy no more than the change maps; else copy
by map. The journal is preferred because the secondaries then go through states that existed, so
nothing has to be staged. Pairs whose secondary holds no such state (torn, or its disk failed) are
copied in a job of their own.

A secondary leaves its cut only after it has arrived there, durably. That takes a while, and a
failure may suspend more of the pairs meanwhile, at a cut that they are still on their way to. So it
is asked again in the step that begins (`Resyncs._from_cuts`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from duplexd.core import pair_states
from duplexd.core.markers import Copy, Resync
from duplexd.errors import DuplexdError
from duplexd.journal.writer import NO_SPACE
from duplexd.replication.job import ALREADY, COPY, JOURNAL, MAP, Job
from duplexd.replication.left_out import Refusals

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.cut import Cut
    from duplexd.core.pair import Pair
    from duplexd.json_object import Json
    from duplexd.replication.followers import Followers
    from duplexd.replication.seams import Checkpointer, Emit, Timeline

T = TypeVar("T")

_SIMPLEX = "SIMPLEX, there is no secondary to resync; add one to the configuration"


class Resyncs:
    """Begins the resyncs of a controller. `unsettled`: ids of cuts that are not yet durable."""

    def __init__(
        self,
        timeline: Timeline,
        checkpointer: Checkpointer,
        followers: Followers,
        unsettled: Collection[str],
        emit: Emit,
    ) -> None:
        self._timeline = timeline
        self._checkpointer = checkpointer
        self._followers = followers
        self._unsettled = unsettled
        self._emit = emit

    async def wait(self, pairs: Sequence[Pair]) -> Json:
        """Wait until none of the pairs is PENDING."""
        pending = pair_states.PENDING
        await self._followers.until(lambda: all(pair.state != pending for pair in pairs))
        return {
            "volumes": [
                {
                    "name": pair.name,
                    "state": pair.state,
                    "reason": pair.reason,
                    "copied_bytes": pair.copied_bytes,
                    "error": pair.resync_error,
                    "differs": pair.record.differs.text if pair.record.differs else None,
                }
                for pair in pairs
            ]
        }

    async def resync(self, pairs: Sequence[Pair], refusals: Refusals | None = None) -> Json:
        """Start; says how for each volume.

        Refused is a volume without secondary, or that is not served, or whose secondary's path
        leads to another image. Raises WrongStateError, with nothing started, see `Refusals.left`;
        DuplexdError if the journal has no room for it.
        """
        refusals = refusals or Refusals()
        _possible(pairs, refusals)
        try:
            report = await self._from_cuts(pairs, refusals, lambda: self._begin(pairs, refusals))
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            raise DuplexdError(
                f"the journal has no room: {error.strerror}; "
                "free some on the file system of state_dir, then resync again"
            ) from error
        job = next(iter(self._followers.jobs), "")
        return {"job": job, "volumes": report, "refused": refusals.show()}

    def check(self, pairs: Sequence[Pair], refusals: Refusals) -> None:
        """Raises as `resync` would now, as far as the states say it."""
        _possible(pairs, refusals)

    async def arrive(self, pairs: Sequence[Pair]) -> None:
        """Wait until suspended secondaries are at their cuts, and durable there. Raises
        WrongStateError for one whose path leads to another image.
        """
        await self._arrived(pairs, Refusals())

    async def from_cuts(self, pairs: Sequence[Pair], step: Callable[[], T]) -> T:
        """The result of `step`, run at rest when they are where `arrive` says."""
        return await self._from_cuts(pairs, Refusals(), step)

    async def _from_cuts(
        self, pairs: Sequence[Pair], refusals: Refusals, step: Callable[[], T]
    ) -> T:
        """The result of `step`, run at rest when suspended secondaries are where `_arrived` says.
        Raises as that does, and as `step`.
        """
        cuts: dict[Pair, Cut | None] = {}
        done: list[T] = []

        def take() -> list[T]:
            return [step()] if self._are_at(refusals.left(pairs), cuts) else []

        while not done:
            cuts = await self._arrived(pairs, refusals)
            done = await self._timeline.at_rest(take)
        return done[0]

    async def _arrived(self, pairs: Sequence[Pair], refusals: Refusals) -> dict[Pair, Cut | None]:
        """Wait until suspended secondaries are at their cuts, and durable there; these cuts.

        A resync leaves the cuts and a restart does not go back to them, so this holds for those
        that a failure suspended, too. Raises as `Refusals.left`, for paths that lead to another
        image.
        """
        left = refusals.left(pairs)
        await self._followers.until(lambda: all(self._has_arrived(pair) for pair in left))
        cuts = {pair: pair.cut for pair in left if pair.state == pair_states.SUSPENDED}
        for pair, error in (await self._checkpointer.sync_secondaries(list(cuts))).items():
            refusals.add(pair, error.strerror or str(error))
        refusals.left(pairs)
        return cuts

    def _are_at(self, pairs: Sequence[Pair], cuts: Mapping[Pair, Cut | None]) -> bool:
        """Whether suspended secondaries are still at these cuts. One that is not usable is at none,
        and is written to by nobody once it has arrived.
        """
        return all(
            self._has_arrived(pair) and (not pair.usable or pair.cut is cuts.get(pair))
            for pair in pairs
            if pair.state == pair_states.SUSPENDED
        )

    async def roll_forward(self, pairs: Sequence[Pair], check: Callable[[Pair], None]) -> None:
        """Begin a resync from the journal alone: without their primaries. `check` raises if it does
        not reach back to the cut of one. From that step on it is kept for all of them.
        """

        def begin() -> None:
            for pair in pairs:
                check(pair)
            for pair in pairs:
                pair.copied_bytes, pair.resync_error = 0, None
                self._timeline.ledger.secondary_holds(pair.record, pair.applied)
            self._begin_following(pairs, JOURNAL)

        await self._from_cuts(pairs, Refusals(), begin)

    def _has_arrived(self, pair: Pair) -> bool:
        settled = pair.cut is None or pair.cut.id not in self._unsettled
        return settled and not self._followers.is_on_its_way(pair)

    def resume(self, interrupted: Sequence[Pair]) -> None:
        """Begin the resyncs again that a restart interrupted."""
        if interrupted:
            self._timeline.when_at_rest(lambda: self.begin_again(interrupted))

    def begin_again(self, pairs: Sequence[Pair]) -> None:
        """Begin a resync of pairs that one had left SUSPENDED, at rest."""
        readers = self._timeline.ledger.readers  # of a cut that a failed resync had not left
        again = [pair for pair in pairs if not (pair.failed or readers.names(pair.id))]
        if again:
            self._begin(again, Refusals())

    # ------------------------------------------------------------------------------ beginning

    def _begin(self, pairs: Sequence[Pair], refusals: Refusals) -> list[Json]:
        pairs = _possible(pairs, refusals)
        todo = [pair for pair in pairs if pair.state == pair_states.SUSPENDED]
        usable = [pair for pair in todo if pair.usable]
        torn = [pair for pair in todo if not pair.usable]
        how = self._how(usable)
        hows = dict.fromkeys(usable, how) | dict.fromkeys(torn, COPY)
        report: list[Json] = [
            {"name": pair.name, "how": hows.get(pair, ALREADY), "state": pair.state}
            for pair in pairs
        ]
        for pair in todo:
            pair.copied_bytes, pair.resync_error = 0, None
        if torn:
            self._begin_copy(torn)
        if usable:
            self._begin_following(usable, how)
        if todo:
            self._emit("resync-started", volumes=[pair.name for pair in todo], how=how)
        return report

    def begin_copy(self, pair: Pair, changed: ChangeMap) -> None:
        """Copy these grains to the secondary of a DUPLEX pair that holds all changes. At rest."""
        pair.copied_bytes, pair.resync_error = 0, None
        self._begin_copy_of([pair], {pair.id: changed})
        self._emit("resync-started", volumes=[pair.name], how=COPY)

    def _begin_copy(self, pairs: Sequence[Pair]) -> None:
        self._begin_copy_of(pairs, {pair.id: pair.changed or pair.new_map() for pair in pairs})

    def _begin_copy_of(self, pairs: Sequence[Pair], maps: Mapping[int, ChangeMap]) -> None:
        number = self._timeline.append(Copy(maps, pair_states.RESYNCING))
        self._followers.begin(Job(COPY, pairs, number))

    def _begin_following(self, pairs: Sequence[Pair], how: str) -> None:
        job = Job(how, pairs, self._timeline.written)
        self._timeline.append(Resync(job.id, how, [pair.id for pair in pairs]))
        if how == JOURNAL:
            # A restart needs the journal from there, until a checkpoint covers the resync.
            job.floor = min(pair.applied for pair in pairs)
            job.torn = {pair for pair in pairs if not pair.usable}
            self._checkpointer.keep_from(job.floor)
        self._followers.begin(job)

    def _how(self, pairs: Sequence[Pair]) -> str:
        changed = [pair for pair in pairs if pair.changed is not None]
        if not changed:
            return JOURNAL
        oldest = self._timeline.writer.ring.oldest
        reaches = 0 < oldest <= min(pair.applied for pair in changed) + 1
        return JOURNAL if reaches and all(_journal_is_shorter(pair) for pair in changed) else MAP


def _possible(pairs: Sequence[Pair], refusals: Refusals) -> list[Pair]:
    """Those that can be resynced, as they are now. Raises as `Refusals.left`."""
    for pair in pairs:
        if pair.failed:
            refusals.add(pair, f"{pair.name} is not served: {pair.failed}")
        elif pair.state == pair_states.SIMPLEX:
            refusals.add(pair, f"{pair.name}: {_SIMPLEX}")
    return refusals.left(pairs)


def _journal_is_shorter(pair: Pair) -> bool:
    return pair.changed is None or pair.record.tracked_bytes <= pair.changed.changed_bytes
