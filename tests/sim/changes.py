"""Scenarios with many cuts: for any two of those that are remembered, the extents cover every block
that differs between what the volume held at them. The history of the test knows the contents.

`ChangingDay` has crashes, resyncs, checkpoints and reloads; `BadChangingDay` also whatever fails,
swaps, changes given up and adopted images, see `bad_day.py`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from duplexd.core import pair_states as state
from duplexd.errors import DuplexdError
from tests.sim import scenario
from tests.sim.bad_day import BadDay
from tests.sim.scenario import Scenario
from tests.sim.small import GRAIN_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.core.change_history import KnownCut
    from duplexd.core.pair import Pair
    from tests.sim.machine import Machine

TRACKED_CUTS = 4  # so few that cuts are forgotten


async def check_changes(machine: Machine, now: bool) -> int:
    """All intervals of all volumes, with `now` up to now, where nothing may be in flight. Returns
    how many were compared.
    """
    compared = 0
    for pair in machine.controller.volumes.all():
        history = pair.record.history
        if history is None:
            continue
        points: list[KnownCut | None] = [
            *history.cuts,
            *([None] if now and not pair.failed else []),
        ]
        for at, since in enumerate(points[:-1]):
            assert since is not None
            for until in points[at + 1 :]:
                await _check(machine, pair, since, until)
                compared += 1
    return compared


async def _check(machine: Machine, pair: Pair, since: KnownCut, until: KnownCut | None) -> None:
    try:
        between = await machine.controller.changes.extents(
            pair.name, since.id, None if until is None else until.id
        )
    except DuplexdError:  # forgotten while another interval was read
        return
    before = machine.history.content(pair.id, since.sequence)
    last = between.sequence + 0.9 if until is None else until.sequence
    after = machine.history.content(pair.id, last)
    covered = bytearray(-(-pair.size // GRAIN_BYTES))
    for offset, length in between.extents():
        for grain in range(offset // GRAIN_BYTES, -(-(offset + length) // GRAIN_BYTES)):
            covered[grain] = 1
    for grain, there in enumerate(covered):
        where = slice(grain * GRAIN_BYTES, (grain + 1) * GRAIN_BYTES)
        assert there or before[where] == after[where], (
            f"{pair.name}: grain {grain} differs between {since.sequence} and {last}, and is not "
            f"in the extents {list(between.extents())}"
        )


class ChangingDay(Scenario):
    """See above. `compared`: how many intervals were looked at."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.machine.tracked_cuts = TRACKED_CUTS
        self.compared = 0

    async def _busy(self) -> None:
        self.compared += await check_changes(self.machine, now=True)
        await super()._busy()

    async def _rest(self) -> None:
        await super()._rest()
        self.compared += await check_changes(self.machine, now=True)

    def _actions(self) -> list[Callable[[], Awaitable[None]]]:
        again = [self._cut_again] * 6
        return [*super()._actions(), *again, self._lose_change_files]

    async def _cut_again(self) -> None:
        """Leave the cut, and make the next one."""
        controller, names = self.machine.controller, self._names()
        self.cuts.forget(names)
        await controller.resync(names)
        await controller.resync_wait(names)
        by_name = controller.volumes.by_name
        await self._suspend(None, [n for n in names if by_name[n].state == state.DUPLEX] or names)
        self.compared += await check_changes(self.machine, now=False)

    async def _lose_change_files(self) -> None:
        """The disk damages one, or does not take the next one."""
        disk, rng = self.machine.disk, self.rng
        if rng.random() < 0.5:
            disk.fail("/state/changes", errno.EIO, operation="replace_file", times=1)
            return
        names = disk.list("/state/changes") if disk.exists("/state/changes") else []
        if names:
            path = f"/state/changes/{rng.choice(names)}"
            disk.flip(path, rng.randrange(len(disk.content(path))))


class BadChangingDay(ChangingDay, BadDay):
    """See above."""


def run(seed: int, kind: Callable[[int], ChangingDay] = ChangingDay) -> int:
    """One seed; a failure names it. Returns how many intervals were compared."""
    made: list[ChangingDay] = []

    def make(number: int) -> Scenario:
        made.append(kind(number))
        return made[0]

    scenario.run(seed, make)
    return made[0].compared


def run_bad(seed: int) -> int:
    """The same on a bad day."""
    return run(seed, BadChangingDay)
