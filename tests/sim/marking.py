"""The scenario of `together.py` with marks: of this controller alone, and with others.

Two things are looked at. What was said of a mark outlives every crash, as with cuts. And what is
called within reach can be reached: the secondary's bytes, with the records up to the mark, are what
the volume held at it. What a power cut left on a primary without a record is no record.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from duplexd.core import cut_states as votes
from duplexd.images.absent import AbsentLeg
from duplexd.journal.format import MARKER
from tests.sim import scenario
from tests.sim.together import Together

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.core.cut import Cut
    from duplexd.core.pair import Pair
    from tests.sim.scenario import Scenario


class MarkingDay(Together):
    """`compared`: how many marks, by volume, were within reach, and how many were not. Pairs are
    suspended more often than elsewhere, and most crashes lose what was not synced.
    """

    losses = 0.8
    flushes = 0.05

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.compared = Counter[str]()
        self._numbers: dict[str, int] = {}  # of marks that were answered

    async def _busy(self) -> None:
        self._check_known()
        await self._attempt(self._mark_alone(list(self.machine.controller.volumes.by_name)))
        self._check_reach()
        await super()._busy()

    async def _rest(self) -> None:
        await super()._rest()
        self._check_reach()

    async def _administrate(self) -> None:
        if self.rng.random() < 0.4:
            await self._attempt(self._mark_alone(self._some()))
        await super()._administrate()

    async def _take_part(self) -> None:
        if self.rng.random() < 0.5:
            await super()._take_part()
            return
        rng, controller = self.rng, self.machine.controller
        self._number += 1
        mark_id = f"d{self._number:015x}"
        names = self._some()
        self.machine.note(f"mark {mark_id} with others {names}")
        lease = await controller.quiesce(names, rng.choice((0.05, 1.0)), "sim", mark_id, mark=True)
        self.said[mark_id] = votes.NONE
        vote = await self._cut_and_open(mark_id, lease)
        if rng.random() < 0.3:
            return  # the coordinator is gone
        await self._say(mark_id, votes.AGREE if vote == votes.READY else votes.REFUSE)

    def _actions(self) -> list[Callable[[], Awaitable[None]]]:
        return [*super()._actions(), *([self._suspend] * 6)]

    def _some(self) -> list[str]:
        names = list(self.machine.controller.volumes.by_name)
        return self.rng.sample(names, self.rng.randint(1, len(names)))

    async def _mark_alone(self, names: list[str]) -> None:
        mark = await self.machine.controller.mark(names, "alone")
        assert mark["verdict"] == votes.CONSISTENT
        self.machine.note(f"mark {mark['id']} at {mark['sequence']}")
        self._numbers[mark["id"]] = mark["sequence"]

    def _check_known(self) -> None:
        """After a recovery: what was answered was durable."""
        for mark_id, sequence in self._numbers.items():
            mark = self.machine.controller.timeline.ledger.cut(mark_id)
            assert mark is not None, f"mark {mark_id} at {sequence} was answered and is lost"
            assert (mark.sequence, mark.state) == (sequence, votes.CONSISTENT)

    # --------------------------------------------------------------------------- what is in reach

    def _check_reach(self) -> None:
        """At rest."""
        controller = self.machine.controller
        if controller.failed or controller.timeline.busy or not self.machine.quiet:
            return
        points = [*controller.timeline.ledger.book.marks.known.values()]
        for pair in controller.volumes.all():
            for point in points:
                if point.is_of([pair.id]) and pair.secondary is not None:
                    self._check_point(pair, point)

    def _check_point(self, pair: Pair, point: Cut) -> None:
        machine, history = self.machine, self.machine.history
        if machine.controller.marks.reach(pair).why_not(point.sequence):
            self.compared["not reached"] += 1
            return
        assert not isinstance(pair.secondary, AbsentLeg)
        at = machine.controller.timeline.written if pair.mirrors else pair.applied
        made = bytearray(machine.disk.content(pair.copy_of.path))
        needed = [
            entry
            for entry in history.entries
            if entry.volume == pair.id
            and entry.kind != MARKER
            and at < entry.sequence <= point.sequence
            and entry.sequence == int(entry.sequence)  # else it has no record
        ]
        oldest = machine.controller.timeline.writer.ring.oldest
        assert all(entry.sequence >= oldest for entry in needed), "the journal lacks a record"
        for entry in needed:
            made[entry.offset : entry.offset + len(entry.data)] = entry.data
        expected = history.content(pair.id, point.sequence)
        assert made == expected, (
            f"{pair.name}: mark {point.id} at {point.sequence} is called within reach of its"
            f" secondary at {at}, but that leads to another content"
        )
        self.compared["reached"] += 1


def run(seed: int) -> Counter[str]:
    """One seed; a failure names it. Returns what was compared."""
    made: list[MarkingDay] = []

    def make(number: int) -> Scenario:
        made.append(MarkingDay(number))
        return made[0]

    scenario.run(seed, make)
    return made[0].compared
