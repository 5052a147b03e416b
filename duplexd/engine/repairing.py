"""Repairs by command: the places where the legs of a pair differ become equal again.

Which image is right, only its owner can know: by the file system's check sums, by the database, by
a third copy. So the command says which one, and nothing is repaired by itself.

    from the primary      the places are copied to the secondary, by the same job as a resync. The
                          pair is PENDING meanwhile, because half of a repair is no copy of anything
    from the secondary    what it holds there is written to the volume, as a client would write it:
                          in the journal, in order, to both legs. Writes of clients wait for each
                          piece, because one in between would be overwritten with older content.
                          A volume that a lease holds is not written to: it is refused, or, if the
                          lease began meanwhile, the repair waits until that ended

Then the places are compared. Only if they are equal, the record of the difference ends.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from duplexd.core.pair_states import DUPLEX, PENDING, SUSPENDED
from duplexd.core.patience import SECONDARY
from duplexd.engine.compare import Legs
from duplexd.engine.difference_record import Comparison
from duplexd.engine.each_of import each_of
from duplexd.engine.leases import PASSED_POLL_SECONDS
from duplexd.errors import DuplexdError, TimedOutError, UsageError, WrongStateError
from duplexd.images.unreadable import UnreadableError, read
from duplexd.runtime.watch import HungError
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.leg_differences import Differences, Run
    from duplexd.core.pair import Pair
    from duplexd.engine.difference_record import DifferenceRecord
    from duplexd.engine.events import Events
    from duplexd.engine.leases import Leases
    from duplexd.engine.own_writes import OwnWrites
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.verify import Verification
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits
    from duplexd.replication.followers import Followers
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.replication.resync import Resyncs
    from duplexd.runtime.clock import Clock

FROM_PRIMARY, FROM_SECONDARY = "primary", "secondary"
_PIECE_BYTES = 64 << 10  # written at once, while clients wait


class Repairs:
    """Of the pairs of a controller."""

    def __init__(
        self,
        timeline: Timeline,
        leases: Leases,
        followers: Followers,
        resyncs: Resyncs,
        verification: Verification,
        record: DifferenceRecord,
        own_writes: OwnWrites,
        legs: LegCalls,
        events: Events,
        clock: Clock,
        limits: EngineLimits,
    ) -> None:
        self._clock = clock
        self._timeline = timeline
        self._leases = leases
        self._followers = followers
        self._resyncs = resyncs
        self._verification = verification
        self._record = record
        self._own_writes = own_writes
        self._legs = legs
        self._events = events
        self._hold_s = limits.recheck_hold_seconds

    async def repair(
        self, pairs: Sequence[Pair], source: str, dry_run: bool, some: bool = False
    ) -> Json:
        """Repair those of these pairs that have a recorded difference, one after the other, from
        the images of this role; or only say what that would do. The others are named.

        Raises WrongStateError, with nothing done, if none has one (with `some` that is no error),
        or if one that has is not DUPLEX, or is held by a lease and would be written to;
        DuplexdError if a repair fails: the record remains then.
        """
        if source not in {FROM_PRIMARY, FROM_SECONDARY}:
            raise UsageError(f'repair from {source!r}: expected "primary" or "secondary"')
        differing = [pair for pair in pairs if pair.record.differs is not None]
        for pair in differing or ([] if some else pairs):
            _check(pair)
            if source == FROM_SECONDARY and not dry_run:
                self._check_free(pair)
        work = partial(self._one, source=source, dry_run=dry_run)
        others = [pair.name for pair in pairs if pair not in differing]
        return {"volumes": await each_of(differing, work, "repaired"), "no_difference": others}

    def _check_free(self, pair: Pair) -> None:
        """Raises WrongStateError while a lease holds the volume: who holds it expects that nothing
        changes.
        """
        if (hold := self._leases.holder(pair)) is not None:
            left_s = hold.show(self._clock.monotonic())["remaining_s"]
            raise WrongStateError(
                f"{pair.name} is held by {hold.owner} (lease {hold.id}, {left_s:.1f} s left): a"
                " repair from the secondary would write to it; repair it when the hold has ended"
            )

    async def _one(self, pair: Pair, source: str, dry_run: bool) -> Json:
        differs = _check(pair)
        row: Json = {
            "name": pair.name,
            "from": source,
            "path": (pair.primary if source == FROM_PRIMARY else pair.copy_of).path,
            "ranges": [list(run) for run in differs.runs],
            "bytes": differs.nbytes,
            "repaired": not dry_run,
        }
        if dry_run:
            return row
        legs = Legs(pair.primary, pair.copy_of)
        comparison = Comparison(pair, legs)
        if source == FROM_PRIMARY:
            await self._from_primary(pair, differs.runs)
        else:
            await self._from_secondary(pair, legs, differs.runs)
        await self._compare(comparison, differs.runs)
        self._events.emit(
            "legs-repaired", volume=pair.name, source=source, path=row["path"], bytes=row["bytes"],
            ranges=len(differs.runs),
        )  # fmt: skip
        return row

    # ------------------------------------------------------------------------- from the primary

    async def _from_primary(self, pair: Pair, runs: Sequence[Run]) -> None:
        changed = pair.new_map()
        for offset, length in runs:
            changed.set(offset, length)
        async with self._in_time(pair):
            with self._leases.closed([pair]):
                await self._arrived(pair)
                async with self._followers.stepping:  # from here on the job follows for it
                    await self._timeline.at_rest(lambda: self._begin(pair, changed))
        await self._resyncs.wait([pair])
        if pair.state != DUPLEX:
            why = pair.resync_error or f"it became {pair.state}"
            raise DuplexdError(f"{pair.name}: the repair did not end: {why}")

    async def _arrived(self, pair: Pair) -> None:
        """The changes before the gate was closed are on the secondary."""
        last = await self._timeline.at_rest(lambda: self._timeline.written)

        def there() -> bool:
            return pair.mirrors or pair.state != DUPLEX or pair.applied >= last

        await self._followers.until(there)

    @asynccontextmanager
    async def _in_time(self, pair: Pair) -> AsyncIterator[None]:
        """Writes of clients wait within: not for longer than for a lease."""
        try:
            async with asyncio.timeout(self._hold_s):
                yield
        except TimeoutError:
            raise TimedOutError(
                f"{pair.name}: its secondary trails too far behind to be repaired; "
                "try again with less load"
            ) from None

    def _begin(self, pair: Pair, changed: ChangeMap) -> None:
        _check(pair)
        try:
            self._resyncs.begin_copy(pair, changed)
        except OSError as error:
            why = error.strerror or error
            raise DuplexdError(f"{pair.name}: the repair could not begin: {why}") from error
        self._followers.forget(pair)  # only now: nothing else would follow for it again

    # ----------------------------------------------------------------------- from the secondary

    async def _from_secondary(self, pair: Pair, legs: Legs, runs: Sequence[Run]) -> None:
        for offset, length in runs:
            end = offset + length
            for at in range(offset, end, _PIECE_BYTES):
                size = min(_PIECE_BYTES, end - at)
                while not await self._piece(pair, legs, at, size):  # noqa: ASYNC110 - it is rare
                    await asyncio.sleep(PASSED_POLL_SECONDS)  # every hold ends

    async def _piece(self, pair: Pair, legs: Legs, offset: int, length: int) -> bool:
        """False if a lease holds the volume, or began to before anything was written."""
        await self._leases.passed([pair])  # what the gate before this one kept waiting
        await self._own_writes.room(length)
        if self._leases.holds(pair):
            return False
        with self._leases.closed([pair]):
            return await self._write(pair, legs, offset, length)

    async def _write(self, pair: Pair, legs: Legs, offset: int, length: int) -> bool:
        held = False
        async with self._in_time(pair):
            await self._arrived(pair)

        def good() -> bool:
            nonlocal held
            if held := self._leases.holds(pair):
                return False
            return pair.state == DUPLEX and not pair.failed and legs.are_of(pair)

        secondary = legs.secondary
        try:
            content = partial(read, secondary, offset, length)
            data = await self._legs.on(pair, secondary, SECONDARY, content)
        except (UnreadableError, HungError) as error:
            raise DuplexdError(
                f"{pair.name}: {error.strerror}; nothing can be repaired from that image there"
            ) from error
        written = await self._own_writes.write(pair, offset, data, good)
        if not written and not held:
            raise DuplexdError(
                f"{pair.name}: {format_size(length)} at byte {offset} could not be written: "
                "`duplexctl status` and the log show which image failed, or that the journal is "
                "full; what comes before it is repaired"
            )
        return written

    # --------------------------------------------------------------------------------- the proof

    async def _compare(self, comparison: Comparison, runs: Sequence[Run]) -> None:
        pair, legs = comparison.pair, comparison.legs
        found: list[Run] = []
        for offset, length in runs:
            at, end = offset, offset + length
            while at < end:
                try:
                    piece = await self._verification.piece(pair, legs, at, end)
                except UnreadableError as error:
                    raise DuplexdError(f"{pair.name}: {error.strerror}") from error
                at += piece.length
                found += piece.runs
        if found:
            await self._record.differ(comparison, found)
            await self._record.conclude(comparison, found)
            raise DuplexdError(
                f"{pair.name}: the legs still differ after the repair, at byte {found[0][0]}: one "
                "of the disks does not keep what is written to it; replace it"
            )
        await self._record.conclude(comparison, ())


def _check(pair: Pair) -> Differences:
    """What is recorded of it. Raises WrongStateError if nothing is, or it cannot be repaired."""
    differs = pair.record.differs
    if pair.record.removed:
        raise WrongStateError(f"{pair.name}: a reload removed the volume")
    if differs is None:
        raise WrongStateError(
            f"{pair.name}: no difference of its legs is recorded, so there is nothing to repair; "
            f"`duplexctl verify {pair.name}` compares them"
        )
    if pair.failed:
        raise WrongStateError(f"{pair.name} is not served: {pair.failed}")
    if pair.is_delayed:
        raise WrongStateError(
            f"{pair.name}: its secondary is delayed; a repair needs one that holds all changes: "
            'suspend it, reload with mode = "async", resync --wait, then repair'
        )
    if pair.state == DUPLEX:
        return differs
    todo = {
        PENDING: "wait until it is DUPLEX (`duplexctl resync --wait`)",
        SUSPENDED: f"`duplexctl resync --wait {pair.name}` first; its cut is void in any case",
    }
    raise WrongStateError(
        f"{pair.name} is {pair.state}, and only a DUPLEX pair can be repaired; {todo[pair.state]}"
    )
