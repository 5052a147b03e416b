"""Suspending secondaries at a point that has passed: the retroactive suspend.

Delayed secondaries that are DUPLEX are cut by one marker, as for any suspend, but of an earlier
record. What changed since has to be in it: a restart and a resync go by that map. It is read from
the journal while the secondaries stand still and writes go on; only for what came during the last
of it writes wait, for some milliseconds. Secondaries that are SUSPENDED go on: `walk_on.py`.

Several controllers all go to one mark, under one id. No gate closes for it: the mark is their
consistent point. Each is prepared (READY) once its secondaries are durable there, and the cut is
committed when all are. A kill in between loses nothing, because each marker has its number: so a
restart goes on, and the same command finishes what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core.cut_states import NONE, VOID
from duplexd.core.cuttable import Standing, check_can_be_cut, check_standing
from duplexd.core.delay_markers import OfMark
from duplexd.core.markers import CutAt
from duplexd.core.pair_states import BY_COMMAND, SUSPENDED
from duplexd.engine.cut_archive import new_id
from duplexd.engine.past_places import PastPlaces
from duplexd.engine.suspend import (
    Made,
    begin_reading,
    check_still_there,
    common_cut,
    refuse_gone,
    refuse_in_doubt,
    refused_cut,
)
from duplexd.engine.walk_on import WalkOn
from duplexd.errors import WrongStateError
from duplexd.known import known

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.cut import Cut
    from duplexd.core.mark_reach import Reach
    from duplexd.core.pair import Pair
    from duplexd.core.past_point import PastCut
    from duplexd.engine.checkpoint import Checkpointer
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.cut_readers import CutReaders
    from duplexd.engine.past_places import Place
    from duplexd.engine.settling import Settling
    from duplexd.engine.timeline import Timeline
    from duplexd.limits import EngineLimits
    from duplexd.replication.backlog import Ahead
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.replication.secondaries import Secondaries
    from duplexd.runtime.clock import Clock


class RetroactiveSuspends:
    """Of this controller."""

    def __init__(
        self,
        timeline: Timeline,
        secondaries: Secondaries,
        checkpointer: Checkpointer,
        legs: LegCalls,
        settling: Settling,
        archive: CutArchive,
        readers: CutReaders,
        reach: Callable[[Pair], Reach],
        clock: Clock,
        limits: EngineLimits,
    ) -> None:
        """`reach`: see `WalkOn`."""
        self._timeline = timeline
        self._trailing = trailing = secondaries.trailing
        self._backlog = secondaries.backlog
        self._settling = settling
        self._archive = archive
        self._readers = readers
        self._clock = clock
        self._places = PastPlaces(timeline, archive, legs, clock, limits)
        self._walk_on = WalkOn(
            timeline, trailing, secondaries.resyncs, checkpointer, settling, readers, reach
        )

    async def make(
        self, pairs: Sequence[Pair], wanted: PastCut, tag: str, reader: str = ""
    ) -> Made:
        """Bring pairs to stand at a point; they may be there already. Raises WrongStateError, with
        nothing done, if they cannot be brought there: the error says from when to when they can.
        """
        point, mark = wanted.point, self._places.mark(pairs, wanted.point)
        if (cut := await self._there(pairs, wanted, mark)) is not None:
            return await self._standing(pairs, cut, reader)
        of = (
            OfMark(mark.mark, wanted.group, tuple(wanted.members)) if mark is not None else OfMark()
        )
        cut_id = wanted.id or new_id()
        if self._goes_on(pairs, wanted, mark):
            await self._walk_on.arrive(pairs)
            place = await self._places.find(pairs, point, mark)
            return Made(await self._walk_on.go(pairs, place, cut_id, tag, of, reader), False)
        async with self._trailing.standing(pairs):
            place = await self._places.find(pairs, point, mark)
            changed = await self._backlog.ahead(place.sequence, pairs)
            marker = CutAt(
                cut_id, tag, [pair.id for pair in pairs], place.sequence, place.time_us, {}, of
            )
            cut = await self._cut(pairs, marker, changed, reader)
        self._trailing.poke()
        return Made(cut, already=False)

    async def check(self, pairs: Sequence[Pair], wanted: PastCut) -> bool:
        """Raises as `make` would now. Whether they are there already."""
        mark = self._places.mark(pairs, wanted.point)
        cut = await self._there(pairs, wanted, mark)
        if cut is not None:
            refuse_gone(pairs, cut)
        else:
            goes_on = self._goes_on(pairs, wanted, mark)
            place = await self._places.find(pairs, wanted.point, mark)
            if goes_on:
                self._walk_on.check(pairs, place)
        return cut is not None

    async def stand(self, pairs: Sequence[Pair], wanted: PastCut, tag: str) -> bool:
        """`make`, of several controllers. Returns when this one has given its vote; whether they
        were there already.
        """
        made = await self.make(pairs, wanted, tag)
        await self._settling.wait(made.cut)
        if made.already and made.cut.state != VOID:
            await self._settling.look(pairs)
            check_still_there(pairs, made.cut)
        if not made.already:
            self._archive.made += 1
            self._archive.keep_figures(made.cut, None, [pair.name for pair in pairs])
        return made.already

    # ------------------------------------------------------------------------ what is possible

    async def _there(
        self, pairs: Sequence[Pair], wanted: PastCut, mark: Place | None
    ) -> Cut | None:
        """The cut that is asked for, if somebody brought them all there before."""
        cut = common_cut(pairs)
        if cut is None or cut.verdict == VOID or wanted.id not in {"", cut.id}:
            return None
        if not all(pair.reason == BY_COMMAND for pair in pairs):
            return None
        if not await self._places.is_at(pairs, cut, wanted.point, mark):
            return None
        if not wanted.id:
            refuse_in_doubt(cut)
        return cut

    def _goes_on(self, pairs: Sequence[Pair], wanted: PastCut, mark: Place | None) -> bool:
        """Whether they leave a cut for it, and not DUPLEX. Raises WrongStateError for both."""
        if wanted.id and (state := self._timeline.ledger.state_of(wanted.id)) != NONE:
            raise WrongStateError(f"cut {wanted.id} is {state} here already; run it again")
        suspended = [pair for pair in pairs if pair.state == SUSPENDED]
        there = mark is not None and all(p.cut and p.cut.mark == mark.mark for p in suspended)
        if wanted.onward or there:
            if len(suspended) == len(pairs):
                return True
            if wanted.onward:
                self._refuse_onward([pair for pair in pairs if pair not in suspended])
        self._check_duplex(pairs)
        return False

    def _refuse_onward(self, others: Sequence[Pair]) -> None:
        listed = ", ".join(f"{pair.name} is {pair.state}" for pair in others[:5])
        raise WrongStateError(
            f"only SUSPENDED secondaries can go on to a later point: {listed}; delayed ones that "
            "are DUPLEX get there with `suspend --at`"
        )

    def _check_duplex(self, pairs: Sequence[Pair]) -> None:
        if (cut := common_cut(pairs)) is not None:
            age_s = self._clock.wall() - cut.time_us / 1e6
            reasons = frozenset(pair.reason for pair in pairs)
            check_standing(Standing(cut.id, cut.tag, age_s, reasons), allowed=False)
        check_can_be_cut(pairs)
        others = [pair.name for pair in pairs if not pair.is_delayed]
        if others:
            raise WrongStateError(
                "only delayed secondaries can be suspended at a point of the past, and "
                f"{', '.join(others[:5])} {'is' if len(others) == 1 else 'are'} in another mode; "
                "suspend without --at"
            )

    # ------------------------------------------------------------------------------ making it

    async def _cut(self, pairs: Sequence[Pair], marker: CutAt, changed: Ahead, reader: str) -> Cut:
        timeline = self._timeline

        def step(maps: dict[Pair, ChangeMap]) -> Cut:
            check_can_be_cut(pairs)
            if reader:
                self._readers.check_new(pairs, reader)
            since = {pair.id: found for pair, found in maps.items() if found.any()}
            try:
                timeline.append(marker._replace(changed=since))
            except OSError as error:
                raise refused_cut(error) from error
            cut = known(pairs[0].record.cut, "the marker of a cut gives it to its pairs")
            self._settling.begin(pairs, cut)
            if reader:
                begin_reading(self._readers, pairs, cut, reader)
            return cut

        async with self._backlog.held(pairs) as tail:
            maps = await self._backlog.rest(changed, tail)
            return await timeline.at_rest(lambda: step(maps))

    async def _standing(self, pairs: Sequence[Pair], cut: Cut, reader: str) -> Made:
        """They are at the cut that is asked for."""

        def step() -> None:
            if reader and common_cut(pairs) is cut:
                self._readers.check_new(pairs, reader)
                begin_reading(self._readers, pairs, cut, reader)

        await self._timeline.at_rest(step)
        return Made(cut, already=True)
