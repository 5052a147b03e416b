"""Scenarios with delayed secondaries, which are suspended at points of the past.

All that is checked of other secondaries is checked of these: each that status calls usable holds
exactly the changes up to the number that it shows, and a cut stays where it was promised. What is
special here are the points, and that a kill takes nothing of what can be gone back to. Those that
are suspended, of any mode, go on to later points, too.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from duplexd.core import pair_states as state
from duplexd.core.past_point import PastCut, PastPoint
from duplexd.engine.cut_archive import new_id
from duplexd.errors import DuplexdError
from tests.sim import checks, scenario
from tests.sim.clients import SimClient
from tests.sim.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.core.pair import Pair

TWO = ("sim", "another")
DELAYS = (0.2, 3.0, 1e6)


class Delayed(Scenario):
    """Most volumes are delayed, by times that pass within a life, and one that never does.
    `since`: the first numbers that secondaries went on from, by volume.
    """

    def __init__(self, seed: int, faults: bool = True) -> None:
        super().__init__(seed, faults)
        self.since: dict[str, int] = {}
        self.marks: list[str] = []
        self.begun: dict[str, list[str]] = {}  # cuts of two controllers that are not decided

    def _add_volume(self, name: str) -> None:
        super()._add_volume(name)
        if self.rng.random() < 0.8:
            volume = self.machine.volumes[name]
            delay = self.rng.choice(DELAYS)
            self.machine.volumes[name] = volume.model_copy(
                update={"mode": "delayed", "delay": delay}
            )

    def _actions(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            *super()._actions(), *[self._suspend_at] * 6, *[self._go_on] * 4, *[self._stand] * 3,
            self._mark, self._change_delay,
        ]  # fmt: skip

    def _delayed(self) -> list[Pair]:
        pairs = self.machine.controller.volumes.by_name.values()
        return [pair for pair in pairs if pair.is_delayed and not pair.failed]

    async def _suspend_at(self) -> None:
        await self._to_a_point(self._delayed(), onward=False)

    async def _go_on(self) -> None:
        """From cuts: those are left, and what changed since them is copied later at most."""
        pairs = self.machine.controller.volumes.by_name.values()
        suspended = [pair for pair in pairs if pair.state == state.SUSPENDED and not pair.failed]
        await self._to_a_point(suspended, onward=True)

    async def _to_a_point(self, pairs: list[Pair], onward: bool) -> None:
        rng, controller = self.rng, self.machine.controller
        if not pairs:
            return
        chosen = rng.sample(pairs, rng.randint(1, len(pairs)))
        first, last = max(pair.applied for pair in chosen), controller.timeline.written
        point = PastPoint(sequence=rng.choice((first, last, rng.randint(max(first - 3, 0), last))))
        if rng.random() < 0.4:
            now = controller.timeline.now_us() / 1e6
            point = PastPoint(time=now - rng.choice((0.0, 0.01, 0.3, 2.0)))
        names = [pair.name for pair in chosen]
        if onward:
            self.cuts.forget(names)
            for pair in chosen:
                self.since[pair.name] = min(self.since.get(pair.name, pair.applied), pair.applied)
        result = await controller.suspend(names, "past", at=PastCut(point, onward))
        (number,) = result["controllers"].values()
        self.machine.note(f"  {result['verdict']} {result['cut']} at {point}: {number} {names}")
        if point.time is not None:
            self._check_time(point.time, number, last)
        else:
            assert number == point.sequence, result
        self.cuts.returned(result)

    def _check_time(self, time: float, number: int, last: int) -> None:
        """What is later is after the cut, and what is not is before it. `last`: the last number
        when it was asked for.
        """
        times, time_us = self.machine.history.times, int(time * 1e6)
        later = [at for at, us in times.items() if us > time_us and at <= last]
        assert number < min(later, default=number + 1), f"{number} has changes from after {time}"
        first = [times[at] for at in (number + 1,) if at <= last]
        assert all(us > time_us for us in first), f"{number} lacks changes from before {time}"

    async def _mark(self) -> None:
        controller = self.machine.controller
        names = [pair.name for pair in controller.volumes.all() if not pair.failed]
        self.marks.append((await controller.mark(names))["id"])

    async def _stand(self) -> None:
        """As one of two controllers, of which the other one is always there."""
        rng, controller = self.rng, self.machine.controller
        pairs = self._delayed()
        onward = rng.random() < 0.5
        if onward:
            volumes = controller.volumes.by_name.values()
            pairs = [pair for pair in volumes if pair.state == state.SUSPENDED and not pair.failed]
        if not pairs or not self.marks:
            return
        names = [pair.name for pair in rng.sample(pairs, rng.randint(1, len(pairs)))]
        cut_id, point = new_id(), PastPoint(mark=rng.choice(self.marks[-5:]))
        if onward:
            self.cuts.forget(names)
            for name in names:
                at = controller.volumes.by_name[name].applied
                self.since[name] = min(self.since.get(name, at), at)
        self.begun[cut_id] = names
        try:
            await controller.stand(names, PastCut(point, onward, cut_id, "db", TWO), "", False)
        except DuplexdError:
            del self.begun[cut_id]
            raise
        await self._agree(cut_id)

    async def _busy(self) -> None:
        """What a kill has interrupted goes on by itself."""
        for cut_id in list(self.begun):
            with suppress(DuplexdError):
                await self._agree(cut_id)
        await super()._busy()

    async def _agree(self, cut_id: str) -> None:
        """The coordinator, as soon as this one is prepared."""
        controller, names = self.machine.controller, self.begun[cut_id]
        cut = controller.timeline.ledger.cut(cut_id)
        pairs = [pair for pair in controller.volumes.all() if pair.name in names]
        if cut is None or any(pair.cut is not cut for pair in pairs):
            del self.begun[cut_id]
            return
        await controller.settling.wait(cut)
        shown = controller.cuts.show(cut_id)
        assert shown["state"] in {"ready", "consistent"} or self.faults, shown
        if shown["state"] == "ready":
            shown = await controller.cuts.decide(cut_id, "agree")
        self.machine.note(f"  {shown['verdict']} {cut_id} at mark {cut.mark}: {names}")
        controllers = {controller.name: cut.sequence}
        result = {"cut": cut_id, "verdict": shown["verdict"], "volumes": names}
        self.cuts.returned(result | {"controllers": controllers})
        del self.begun[cut_id]

    def _check_copied(self, name: str, cut: int, began_at: int) -> None:
        super()._check_copied(name, self.since.get(name, cut), began_at)

    async def _change_delay(self) -> None:
        machine = self.machine
        for name, volume in machine.volumes.items():
            if volume.mode == "delayed" and self.rng.random() < 0.5:
                delay = self.rng.choice(DELAYS)
                machine.volumes[name] = volume.model_copy(update={"delay": delay})
        await machine.controller.reload(machine.config())

    async def _end(self) -> None:
        """All that are delayed are suspended, and hold what the journal says; the others mirror."""
        machine = self.machine
        controller = machine.controller
        self.cuts.promised.clear()
        await SimClient(machine, self.rng).run(5)
        await self._rest()
        names = [pair.name for pair in controller.volumes.all() if pair.state != state.SIMPLEX]
        await controller.resync(names)
        await asyncio.wait_for(controller.resync_wait(names), 200)
        await SimClient(machine, self.rng).run(5)
        await self._rest()
        for name in names:
            pair = controller.volumes.by_name[name]
            assert pair.state == state.DUPLEX, f"{name} is {pair.state} ({pair.reason})"
        if names:
            self.cuts.returned(await controller.suspend(names))
            assert self.cuts.promised, "a suspend with nothing in its way was void"
            checks.check_secondaries(machine, self.cuts)
        await asyncio.wait_for(controller.stop(), 100)


def run(seed: int) -> None:
    """One seed."""
    scenario.run(seed, Delayed)
