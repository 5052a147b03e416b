"""Scenarios in which volumes go back to their cuts, with crashes and faults in between.

Clients are connected here, as over NBD: they keep a rollback from its volumes, or are disconnected.
The markers of each rollback are noted. A volume whose rollback began and did not end is closed, in
every later life; one whose rollback ended held, at that number, what it held at the cut.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import rollback as steps
from duplexd.core.markers import Rollback, RolledBack
from duplexd.core.pair_states import DUPLEX
from duplexd.core.rollback import Order
from duplexd.core.rollback_state import DONE
from duplexd.errors import DuplexdError
from tests.sim import scenario
from tests.sim.clients import SimClient
from tests.sim.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from duplexd.core.markers import Marker
    from duplexd.core.pair import Pair
    from duplexd.engine.own_writes import Content


class Mark(NamedTuple):
    """A marker of a rollback, by its number; `cut` is the number of the cut that it goes back to.
    `ended`: "" for the first one.
    """

    number: int
    volume: int
    cut: int
    ended: str


class Connected(SimClient):
    """One connection to each of the volumes that are open."""

    async def run(self, wakeups: int) -> None:
        self._pairs = [pair for pair in self._machine.controller.volumes.all() if not pair.closed]
        for pair in self._pairs:
            pair.joined(self, "sim")
        try:
            if self._pairs:
                await super().run(wakeups)
        finally:
            for pair in self._pairs:
                pair.left(self)

    def names(self) -> list[str]:
        return [pair.name for pair in self._pairs]

    def end_reading(self, _why: str) -> None:
        if not self._gone:
            self.disconnect()
            self._woken.set()

    def _issue(self) -> None:
        if not self._gone:
            super()._issue()


class GoingBack(Scenario):
    """`marks`: all that are in the journal."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.marks: list[Mark] = []

    def _actions(self) -> list[Callable[[], Awaitable[None]]]:
        return [*super()._actions(), *[self._whole] * 5, self._in_two, self._abandon]

    async def _client(self) -> None:
        for _ in range(self.rng.randint(1, 3)):
            await Connected(self.machine, self.rng, self.flushes).run(self.rng.randint(1, 25))

    # ------------------------------------------------------------------------- what is checked

    async def _start(self) -> None:
        await super()._start()
        tail = self.machine.history.tail
        self.marks = [mark for mark in self.marks if mark.number <= tail]
        self._watch()
        self._check_marks()

    async def _administrate(self) -> None:
        await super()._administrate()
        self._check_marks()

    def _watch(self) -> None:
        """Note the markers; and that the first one is durable before anything is written."""
        controller = self.machine.controller
        timeline, own = controller.timeline, controller.own_writes
        append, write_all = timeline.append, own.write_all

        def noted(marker: Marker) -> int:
            number = append(marker)
            if isinstance(marker, Rollback | RolledBack):
                self._note(number, marker)
            return number

        async def durably(
            pair: Pair, contents: Sequence[Content], good: Callable[[], bool]
        ) -> bool:
            began = max(mark.number for mark in self.marks if mark.volume == pair.id)
            assert timeline.writer.synced >= began, "changed before it is durably closed"
            return await write_all(pair, contents, good)

        timeline.append = noted  # type: ignore[method-assign]
        own.write_all = durably  # type: ignore[method-assign]

    def _note(self, number: int, marker: Rollback | RolledBack) -> None:
        for volume in marker.volumes:
            pair = self.machine.controller.timeline.ledger.pairs[volume]
            assert pair.rollback is not None
            cut = pair.cut.sequence if pair.cut is not None else 0
            self.marks.append(Mark(number, volume, cut, pair.rollback.ended))

    def _check_marks(self) -> None:
        """What the journal says, and what it holds."""
        machine, last = self.machine, dict[int, Mark]()
        for mark in self.marks:
            last[mark.volume] = mark
            if mark.ended == DONE:
                at_cut = machine.history.content(mark.volume, mark.cut)
                then = machine.history.content(mark.volume, mark.number)
                assert then == at_cut, f"volume {mark.volume} was not at cut {mark.cut}: {mark}"
        for volume, mark in last.items():
            pair = machine.controller.volumes.by_number.get(volume)
            if pair is not None:
                assert bool(pair.closed) == (not mark.ended), f"{pair.name}: {mark}, {pair.closed}"

    # --------------------------------------------------------------------------- what is done

    async def _whole(self) -> None:
        await self._go_back(steps.WHOLE)

    async def _go_back(self, step: str) -> str:
        names = self._unfinished() if self.rng.random() < 0.8 else []
        if not names:
            names = self._names()
            if all(state == DUPLEX for state in self._states(names)):
                await self._suspend(None, names)
                await asyncio.sleep(self.rng.choice((0, 0.05, 0.4)))
        force = self.rng.random() < 0.7
        result = await self.machine.controller.rollback(names, Order("latest", "", force, step))
        written = sum(row["written_bytes"] for row in result["volumes"])
        self.machine.note(f"  {step} {names}: {written} bytes")
        return str(result["id"])

    async def _in_two(self) -> None:
        rollback_id = await self._go_back(steps.COPY_ONLY)
        order = Order(id=rollback_id, step=steps.OPEN)
        await self.machine.controller.rollback(self._unfinished(), order)

    def _states(self, names: Sequence[str]) -> list[str]:
        return [self.machine.controller.volumes.by_name[name].state for name in names]

    async def _abandon(self) -> None:
        if self.rng.random() < 0.5 and (names := self._unfinished()):
            await self.machine.controller.rollback(names, Order(step=steps.ABANDON))

    def _unfinished(self) -> list[str]:
        """The volumes of one rollback that is not finished; none if there is none."""
        found: dict[str, list[str]] = {}
        for pair in self.machine.controller.volumes.all():
            rollback = pair.record.rollback
            if rollback is not None and rollback.unfinished:
                found.setdefault(rollback.id, []).append(pair.name)
        return next(iter(found.values()), [])

    async def _end(self) -> None:
        """All that is unfinished is finished, or given up where that is not possible."""
        while names := self._unfinished():
            try:
                await self.machine.controller.rollback(names, Order("latest"))
            except DuplexdError as error:
                self.machine.note(f"  {error}")
                await self.machine.controller.rollback(names, Order(step=steps.ABANDON))
        self._check_marks()
        await super()._end()


def run(seed: int) -> None:
    """One seed."""
    scenario.run(seed, GoingBack)
