"""Swaps by command: the two images of a pair change roles, between two batches.

    DUPLEX      both images are equal, so nothing is lost and no client notices. The secondary of an
                `async` pair is brought to the last change first, while a lease holds the volume
    SUSPENDED   the secondary lacks what came after its cut. `roll_forward` applies that from the
                journal, so that the volume may even be without its primary; `lose_changes` gives it
                up. Without one of them nothing is done, and the error says what is at stake

Pairs are rolled forward together, in one walk along the journal: each after the other would read it
as often, and it may be dropped meanwhile for those that have to wait.

After an unclean stop the primary may hold changes whose records were lost. Clients have read them
since, so a primary that is served is copied from in that case (`_only_in_primary`). The journal
alone, which lacks them, is used once there is no such primary.

Legs that are known to differ are not exchanged unless the caller accepts that: the secondary may be
the wrong one. The pair may have no other good image left, so there is a way to say so.

What happens by itself when a primary fails is in `failures.py`, and how a start does the same in
`recovery/degraded.py`.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

from duplexd.core import lease as ends
from duplexd.core.leaving import Leaving
from duplexd.core.pair import ONLY_THE_MAP
from duplexd.core.pair_states import DUPLEX, PENDING, SIMPLEX, SUSPENDED
from duplexd.engine.each_of import each_of
from duplexd.errors import DuplexdError, WrongStateError
from duplexd.images.absent import AbsentLeg
from duplexd.runtime.tasks import to_its_end
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.cut import Cut
    from duplexd.core.pair import Pair
    from duplexd.engine.cut_readers import CutReaders
    from duplexd.engine.failures import Failures
    from duplexd.engine.leases import Hold, Leases
    from duplexd.engine.timeline import Timeline
    from duplexd.images.leg import Leg
    from duplexd.json_object import Json
    from duplexd.replication.followers import Followers
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.replication.resync import Resyncs
    from duplexd.runtime.disk import Disk

_PIECE_BYTES = 4 << 20


class Swaps:
    """Swaps of a controller's pairs."""

    def __init__(
        self,
        timeline: Timeline,
        leases: Leases,
        followers: Followers,
        resyncs: Resyncs,
        failures: Failures,
        legs: LegCalls,
        disk: Disk,
        readers: CutReaders,
    ) -> None:
        self._readers = readers
        self._timeline = timeline
        self._leases = leases
        self._followers = followers
        self._resyncs = resyncs
        self._failures = failures
        self._legs = legs
        self._disk = disk

    async def swap(
        self,
        pairs: Sequence[Pair],
        roll_forward: bool,
        keep_to: str | None,
        lose_changes: bool,
        accept_differences: bool = False,
        force: bool = False,
    ) -> Json:
        """Swap these pairs, one after the other. `keep_to`: a new file for what the secondary holds
        at its cut, of one pair. Who reads a secondary at its cut ends with `force`.

        Raises WrongStateError, with nothing changed, if one of them is in no state for it. One that
        fails later, or cannot be rolled forward, keeps none of the others from it, see `each_of`.
        """
        if keep_to is not None and len(pairs) != 1:
            raise WrongStateError("the image of a cut can be kept of one volume at a time")
        check = _nothing if accept_differences else _refuse_differing
        for pair in pairs:
            check(pair)
            self._check(pair, roll_forward, lose_changes)
            if keep_to is not None and not pair.usable:
                raise WrongStateError(
                    f"{pair.name}: its secondary has left its cut; leave --keep-to out"
                )
        async with self._readers.leaving(pairs, Leaving(force=force)):
            if roll_forward:
                await to_its_end(self._roll_forward(pairs, keep_to))
            one = partial(
                self._one, roll_forward=roll_forward, lose_changes=lose_changes, check=check
            )
            return {"volumes": await each_of(pairs, one, "swapped")}

    async def _one(
        self, pair: Pair, roll_forward: bool, lose_changes: bool, check: Callable[[Pair], None]
    ) -> Json:
        """It may be in another state than when the command began: those before it took a while.
        `check` raises, in the step that swaps, if its legs were found to differ meanwhile.
        """
        lost: Json | None = None
        if pair.state == DUPLEX:
            await self._exchange_equal(pair, check)
        elif roll_forward and pair.resync_error:
            raise DuplexdError(f"{pair.name}: {pair.resync_error}")
        elif lose_changes and not roll_forward:
            lost = await self._give_up(pair, check)
        else:
            raise WrongStateError(f"{pair.name} became {pair.state} meanwhile; try again")
        await self._timeline.durable()
        return {
            "name": pair.name,
            "state": pair.state,
            "reason": pair.reason or None,
            "swapped": pair.record.swapped,
            "primary": pair.primary.path,
            "secondary": pair.copy_of.path,
            "sequence": self._timeline.written,
            "lost": lost,
            "already": False,
        }

    # ---------------------------------------------------------------------- what is possible

    def _check(self, pair: Pair, roll_forward: bool, lose_changes: bool) -> None:
        _refuse_returning(pair)
        if pair.state == SIMPLEX:
            raise WrongStateError(f"{pair.name} is SIMPLEX: there is no secondary to swap with")
        if pair.state == PENDING:
            raise WrongStateError(
                f"{pair.name} is PENDING: its secondary is being copied to; "
                "wait until it is DUPLEX (`duplexctl resync --wait`)"
            )
        secondary = pair.copy_of
        if isinstance(secondary, AbsentLeg):
            raise WrongStateError(
                f"{pair.name}: its secondary cannot be used: {secondary.path}: {secondary.why}"
            )
        if pair.halfway is not None:
            raise WrongStateError(
                f"{pair.name}: its secondary may hold some of the changes after number "
                f"{pair.applied}, and not others ({pair.halfway.why}); a restart brings it to the "
                "last number if the image can be used then, and the journal reaches back"
            )
        if pair.state == DUPLEX:
            return
        if not pair.can_roll_forward:
            raise WrongStateError(
                f"{pair.name}: its secondary holds no state that the volume ever had; "
                "only a resync makes it usable"
            )
        if not roll_forward and not (lose_changes and pair.usable):
            raise WrongStateError(self._at_stake(pair))
        if roll_forward and not _only_in_primary(pair):
            self._check_reach(pair)

    def _check_reach(self, pair: Pair) -> None:
        if pair.record.adopted:
            raise WrongStateError(
                f"{pair.name}: its primary was adopted after its cut, number {pair.applied}, so "
                f"the journal alone does not lead to what the volume held. {self._at_stake(pair)}"
            )
        if not self._reaches_back(pair):
            raise WrongStateError(
                f"{pair.name}: the journal no longer reaches back to its cut, number "
                f"{pair.applied}; it begins at {self._timeline.writer.ring.oldest}. "
                f"{self._at_stake(pair)}"
            )

    def _check_again(self, pair: Pair) -> None:
        """In the step that begins: a copy of the cut, or a sync, may have taken long."""
        _refuse_returning(pair)
        if pair.state != SUSPENDED or not pair.can_roll_forward or _only_in_primary(pair):
            raise WrongStateError(f"{pair.name} changed its state meanwhile; try again")
        self._check_reach(pair)

    def _reaches_back(self, pair: Pair) -> bool:
        nothing = self._timeline.written <= pair.applied
        return nothing or self._timeline.writer.ring.oldest <= pair.applied + 1

    def _can_go_forward(self, pair: Pair) -> bool:
        by_journal = self._reaches_back(pair) and not pair.record.adopted
        return by_journal or _only_in_primary(pair)

    def _at_stake(self, pair: Pair) -> str:
        lost = self._lost(pair)
        forward = (
            " --roll-forward applies them from the journal;" if self._can_go_forward(pair) else ""
        )
        if not pair.usable:
            return (
                f"{pair.name}: its secondary failed on its way along the journal, and holds some "
                f"of the changes from number {lost['first']} to {lost['last']}, but not all;"
                f"{forward} nothing else makes it usable"
            )
        return (
            f"{pair.name} is SUSPENDED: its secondary lacks the changes from number "
            f"{lost['first']} to {lost['last']}, {format_size(lost['bytes'])} of the volume;"
            f"{forward} --lose-changes gives them up"
        )

    def _lost(self, pair: Pair) -> Json:
        """What only the primary and the journal have."""
        changed = pair.changed
        return {
            "records": None,
            "first": pair.applied + 1,
            "last": self._timeline.written,
            "since": pair.cut.time_us / 1e6 if pair.cut is not None else None,
            "bytes": changed.changed_bytes if changed is not None else 0,
        }

    # ------------------------------------------------------------------------ images that are equal

    async def _exchange_equal(self, pair: Pair, check: Callable[[Pair], None]) -> None:
        if pair.mirrors:
            await self._timeline.at_rest(lambda: self._exchange(pair, check))
            return
        async with self._followers.trailing.at_once(pair):
            await self._exchange_trailing(pair, check)

    async def _exchange_trailing(self, pair: Pair, check: Callable[[Pair], None]) -> None:
        last = self._timeline.written
        if pair.is_delayed:  # most of the way with nobody waiting
            await self._followers.until(lambda: pair.state != DUPLEX or pair.applied >= last)
        hold = await self._leases.quiesce([pair], self._leases.longest_allowed_s, "swap")
        try:
            last, followers = self._timeline.written, self._followers
            hold.ended.add_done_callback(lambda _: followers.moved())
            await followers.until(
                lambda: hold.ended.done() or pair.state != DUPLEX or pair.applied >= last
            )
            await self._timeline.at_rest(lambda: self._exchange_held(pair, hold, last, check))
        finally:
            self._leases.release(hold.id, ends.BY_OWNER)

    def _exchange_held(
        self, pair: Pair, hold: Hold, last: int, check: Callable[[Pair], None]
    ) -> None:
        if pair.applied < last or hold.ended.done():  # changes may have come before another lease
            raise WrongStateError(
                f"{pair.name}: its secondary did not get to the last change while the volume was "
                "held; try again with less load"
            )
        self._exchange(pair, check)

    def _exchange(self, pair: Pair, check: Callable[[Pair], None]) -> None:
        check(pair)
        _refuse_returning(pair)
        if pair.state != DUPLEX:
            raise WrongStateError(f"{pair.name} became {pair.state} meanwhile; try again")
        timeline = self._timeline
        failed, primary = pair.failed, pair.primary
        self._failures.exchange(pair)
        if failed:
            error = OSError(errno.EIO, failed)
            self._suspend(pair, error)
            self._failures.leave_failed(pair, error)
        else:
            timeline.ledger.advance(pair.record, timeline.writer.sequence)  # it was the primary
        self._failures.said_swapped(pair, "by command", primary)

    def _suspend(self, pair: Pair, error: OSError) -> None:
        """The image that was the primary is not current: all of it has to be copied."""
        everything = {pair: pair.record.full_map()}
        at = self._timeline.writer.sequence
        self._failures.freeze({pair}, pair, at, error, {pair}, everything)
        self._failures.served(pair)

    # ------------------------------------------------------------------- a secondary at its cut

    async def _roll_forward(self, pairs: Sequence[Pair], keep_to: str | None) -> None:
        """Bring the secondaries of those that are suspended to the last change."""
        pairs = [pair for pair in pairs if pair.state != DUPLEX]
        if keep_to is not None:
            for pair in pairs:
                await self._keep(pair, keep_to)
        by_map = [pair for pair in pairs if _only_in_primary(pair)]
        by_journal = [pair for pair in pairs if pair not in by_map]
        if by_journal:
            await self._resyncs.roll_forward(by_journal, self._check_again)
        if by_map:
            await self._resyncs.resync(by_map)
        await self._resyncs.wait(pairs)

    async def _keep(self, pair: Pair, path: str) -> None:
        """Copy the secondary at its cut, which it may be on its way to, and may leave meanwhile."""
        await self._resyncs.arrive([pair])
        cut = pair.cut
        if pair.state != SUSPENDED or not pair.usable:
            raise WrongStateError(f"{pair.name} changed its state meanwhile; try again")
        try:
            copy = await self._legs.workers.run(lambda: self._disk.create(path, pair.size))
        except OSError as error:
            raise WrongStateError(
                f"{path}: the image of the cut cannot be kept there: {error.strerror}; "
                "nothing was changed"
            ) from error
        try:
            await self._legs.workers.run(lambda: _copy(pair.copy_of, copy, pair.size))
        except OSError as error:
            raise DuplexdError(
                f"{path}: the image of the cut could not be copied: {error.strerror}; "
                "remove that file; nothing else was changed"
            ) from error
        finally:
            await self._legs.workers.run(copy.close)
        if pair.state != SUSPENDED or pair.cut is not cut:
            raise DuplexdError(
                f"{path}: {pair.name} left its cut while it was copied, so this file is of no "
                "point in time; remove it; nothing else was changed"
            )

    async def _give_up(self, pair: Pair, check: Callable[[Pair], None]) -> Json:
        """Go on with what the secondary holds at its cut."""
        cut = pair.cut
        await self._resyncs.arrive([pair])
        # What is written next must not be on that image while a power cut could still undo the
        # swap: it would count as the secondary at its cut again. A lease would end at its deadline,
        # and a sync may take longer.
        with self._leases.closed([pair]):
            lost = await self._timeline.at_rest(lambda: self._give_up_now(pair, cut, check))
            await self._timeline.durable()
        return lost

    def _give_up_now(self, pair: Pair, cut: Cut | None, check: Callable[[Pair], None]) -> Json:
        """`cut`: the one that the secondary is known to be at."""
        check(pair)
        _refuse_returning(pair)
        lost, primary, timeline = self._lost(pair), pair.primary, self._timeline
        failed = pair.failed
        if pair.state != SUSPENDED or not pair.usable or pair.cut is not cut:
            raise WrongStateError(f"{pair.name} changed its state meanwhile; try again")
        self._failures.exchange(pair)
        why = f"{primary.path}: its changes from number {lost['first']} on were given up"
        everything = {pair: pair.record.full_map()}
        at, error = timeline.writer.sequence, OSError(errno.ESTALE, why)
        self._failures.freeze({pair}, pair, at, error, {pair}, everything)
        self._failures.served(pair)
        if failed:
            self._failures.leave_failed(pair, OSError(errno.EIO, failed))
        self._failures.said_swapped(pair, "by command, changes given up", primary)
        return lost


def _refuse_differing(pair: Pair) -> None:
    differs = pair.record.differs
    if differs is not None:
        raise WrongStateError(
            f"{pair.name}: {differs.text}, so its secondary may be wrong; find out which image is "
            f"right, then `duplexctl repair {pair.name} --from primary|secondary`; "
            "--accept-differences swaps them as they are"
        )


def _refuse_returning(pair: Pair) -> None:
    """The replay of its primary would go on in the other image; or, rolled forward, both would be
    called equal though only the primary has what the journal lacks.
    """
    if pair.returning:
        raise WrongStateError(
            f"{pair.name}: another command brings its primary to the last change just now, and "
            "serves it then; try again when that has ended"
        )


def _nothing(_pair: Pair) -> None:
    """The caller accepts that they differ."""


def _only_in_primary(pair: Pair) -> bool:
    """Whether it shows clients changes that the journal lacks."""
    return not pair.failed and pair.record.tracked_bytes >= ONLY_THE_MAP


def _copy(source: Leg, target: Leg, size: int) -> None:
    """Copy what is not a hole, durably. Blocking."""
    for offset, length, is_data in source.extents(0, size):
        if is_data:
            end = offset + length
            for at in range(offset, end, _PIECE_BYTES):
                piece = bytearray(min(_PIECE_BYTES, end - at))
                source.read_into(at, memoryview(piece))
                target.write(at, piece)
    target.sync()
