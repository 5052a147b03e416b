"""What clients of the API can ask for, by the names of volumes.

Which states a command is legal in is decided by the part that does it, and by the tables of `core`.
Names are resolved before (`Volumes.resolve`): a name here is one of a volume that is served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core.leaving import AS_IT_IS
from duplexd.core.rollback import refuse
from duplexd.errors import UsageError, WrongStateError
from duplexd.replication.job import READ
from duplexd.replication.left_out import Refusals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.leaving import Leaving
    from duplexd.core.pair import Pair
    from duplexd.core.past_point import PastCut
    from duplexd.core.rollback import Order, RestoreOrder
    from duplexd.engine.adopt import Adoptions
    from duplexd.engine.answering import Answering
    from duplexd.engine.comparisons import Comparisons
    from duplexd.engine.cut_readers import CutReaders
    from duplexd.engine.leases import Hold, Leases
    from duplexd.engine.marks import Marks
    from duplexd.engine.reopen import Reopening
    from duplexd.engine.suspend import Suspends
    from duplexd.engine.suspend_at import RetroactiveSuspends
    from duplexd.engine.swapping import Swaps
    from duplexd.engine.verify import Progress
    from duplexd.engine.volumes import Volumes
    from duplexd.json_object import Json
    from duplexd.replication.resync import Resyncs
    from duplexd.runtime.clock import Clock


class Commands:
    """Each does what the part of the same name does, for volumes by name."""

    def __init__(
        self,
        volumes: Volumes,
        leases: Leases,
        suspends: Suspends,
        retroactive: RetroactiveSuspends,
        marks: Marks,
        resyncs: Resyncs,
        comparisons: Comparisons,
        reopening: Reopening,
        adoptions: Adoptions,
        swaps: Swaps,
        readers: CutReaders,
        clock: Clock,
        journal: Answering,
    ) -> None:
        self._volumes = volumes
        self._leases = leases
        self._suspends = suspends
        self._retroactive = retroactive
        self._marks = marks
        self._resyncs = resyncs
        self._comparisons = comparisons
        self._reopening = reopening
        self._adoptions = adoptions
        self._swaps = swaps
        self._readers = readers
        self._clock = clock
        self._journal = journal

    def _served(self, names: Sequence[str]) -> list[Pair]:
        """Raises WrongStateError for a volume that is not served."""
        pairs = self._volumes.named(names)
        for pair in pairs:
            if why := pair.failed or pair.closed:
                raise WrongStateError(f"{pair.name} is not served: {why}")
        return pairs

    async def quiesce(
        self,
        names: Sequence[str],
        hold_s: float | None,
        owner: str,
        cut_id: str = "",
        mark: bool = False,
    ) -> Hold:
        """See `Leases.quiesce`; None lasts as long as the configuration allows."""
        seconds = self._leases.longest_allowed_s if hold_s is None else hold_s
        pairs = self._served(names)
        if mark:
            self._marks.check_room()
        return await self._leases.quiesce(pairs, seconds, owner, cut_id, mark)

    async def mark(self, names: Sequence[str], tag: str = "") -> Json:
        """See `Marks.mark`."""
        return await self._journal.in_time(self._marks.mark(self._served(names), tag))

    def renew(self, lease_id: str, fence: int | None, hold_s: float) -> Json:
        """See `Leases.renew`; returns the lease as status shows it."""
        return self._leases.renew(lease_id, fence, hold_s).show(self._clock.monotonic())

    async def suspend(
        self,
        names: Sequence[str],
        tag: str = "",
        lease_id: str | None = None,
        fence: int | None = None,
        certificate: bool = False,
        existing: bool = False,
        reader: str = "",
        on_cut: Callable[[str], object] | None = None,
        at: PastCut | None = None,
    ) -> Json:
        """See `Suspends.suspend`; with `at`, `RetroactiveSuspends.make`."""
        pairs, suspends = self._served(names), self._suspends
        if at is None:
            work = suspends.suspend(
                pairs, tag, lease_id, fence, certificate, existing, reader, on_cut
            )
        elif lease_id is not None:
            raise UsageError("a lease holds writes of now; leave it out to suspend at a past point")
        else:
            made = self._retroactive.make(pairs, at, tag, reader)
            work = suspends.settled(pairs, made, certificate, reader, on_cut)
        return await self._journal.in_time(work)

    async def stand(self, names: Sequence[str], at: PastCut, tag: str, check: bool) -> bool:
        """See `RetroactiveSuspends.stand`, or with `check`, its `check`."""
        pairs, past = self._served(names), self._retroactive
        work = past.check(pairs, at) if check else past.stand(pairs, at, tag)
        return await self._journal.in_time(work)

    async def resync(
        self, names: Sequence[str], partial: bool = False, how: Leaving = AS_IT_IS
    ) -> Json:
        """See `Resyncs.resync`, and `CutReaders.leaving`. What is absent of these pairs is opened
        before.

        `partial`: one that cannot be resynced keeps none of the others from it. One that is read
        does: its cut is of all of them.
        """
        return await self._journal.in_time(self._leave(names, partial, how))

    async def resync_again(self, names: Sequence[str]) -> Json:
        """The same without a person who asks for it: no other image is written over."""
        async with self._readers.leaving(self._volumes.named(names), AS_IT_IS):
            return await self._resync(names, Refusals(), known_only=True)

    async def add_reader(self, names: Sequence[str], reader: str, cut_id: str) -> Json:
        """See `CutReaders.add`."""
        work = self._readers.add(self._volumes.named(names), reader, cut_id)
        return await self._journal.in_time(work)

    async def release_reader(self, names: Sequence[str], reader: str) -> Json:
        """See `CutReaders.release`."""
        work = self._readers.release(self._volumes.named(names), reader)
        return await self._journal.in_time(work)

    async def _leave(self, names: Sequence[str], partial: bool, how: Leaving) -> Json:
        pairs = self._volumes.named(names)
        if how.force:  # readers do not end for a resync that cannot be
            self._resyncs.check(pairs, Refusals(partial))
        async with self._readers.leaving(pairs, how) as readers:
            if readers:
                return {"job": "", "volumes": _read_still(pairs), "readers": readers, "refused": []}
            return await self._resync(names, Refusals(partial), known_only=False)

    async def _resync(self, names: Sequence[str], refusals: Refusals, known_only: bool) -> Json:
        pairs = self._volumes.named(names)
        for pair in pairs:
            try:
                await self._reopening.before_resync([pair], known_only)
            except WrongStateError as error:
                refusals.add(pair, str(error))
                refusals.left(pairs)
        return await self._resyncs.resync(self._volumes.named(names), refusals)

    async def adopt(self, names: Sequence[str]) -> Json:
        """See `Adoptions.adopt`. No other image makes a volume whole that is half-way back."""
        pairs = self._volumes.named(names)
        refuse(pair.record for pair in pairs if not pair.failed)
        return await self._journal.in_time(self._adoptions.adopt(pairs))

    async def swap(
        self,
        names: Sequence[str],
        roll_forward: bool,
        keep_to: str | None,
        lose_changes: bool,
        accept_differences: bool = False,
        force: bool = False,
    ) -> Json:
        """See `Swaps.swap`. To roll them forward, secondaries that are absent are opened before."""
        pairs, accept = self._volumes.named(names), accept_differences
        if roll_forward:
            await self._journal.in_time(self._reopening.before_roll_forward(pairs))
        work = self._swaps.swap(pairs, roll_forward, keep_to, lose_changes, accept, force)
        return await self._journal.in_time(work)

    async def resync_wait(self, names: Sequence[str]) -> Json:
        """See `Resyncs.wait`."""
        return await self._resyncs.wait(self._volumes.named(names))

    async def verify(self, names: Sequence[str], progress: Progress | None = None) -> Json:
        """See `Verification.verify`."""
        return await self._comparisons.verification.verify(self._served(names), progress)

    async def repair(
        self, names: Sequence[str], source: str, dry_run: bool, some: bool = False
    ) -> Json:
        """See `Repairs.repair`."""
        repairs = self._comparisons.repairs
        work = repairs.repair(self._served(names), source, dry_run, some)
        return await self._journal.in_time(work)

    async def rollback(self, names: Sequence[str], order: Order) -> Json:
        """See `Rollbacks.rollback`."""
        pairs, rollbacks = self._volumes.named(names), self._comparisons.rollbacks
        return await self._journal.in_time(rollbacks.rollback(pairs, order))

    async def restore(self, names: Sequence[str], order: RestoreOrder) -> Json:
        """See `Restores.restore`."""
        pairs, restores = self._volumes.named(names), self._comparisons.restores
        return await self._journal.in_time(restores.restore(pairs, order))

    def stop(self) -> None:
        """End those that still wait for the journal after their callers were answered."""
        self._journal.stop()


def _read_still(pairs: Sequence[Pair]) -> list[Json]:
    return [{"name": pair.name, "how": READ, "state": pair.state} for pair in pairs]
