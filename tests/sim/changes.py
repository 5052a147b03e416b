"""Scenarios with many cuts: for any two of those that are remembered, the extents cover every block
that differs between what the volume held at them. The history of the test knows the contents; and
where a secondary stood at both, a copy of the one and what changed make a copy of the other.

`ChangingDay` has crashes, resyncs, checkpoints and reloads; `BadChangingDay` also whatever fails,
swaps, changes given up and adopted images, see `bad_day.py`.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from duplexd.core import pair_states as state
from duplexd.core.point import Point, is_at_cut
from duplexd.errors import DuplexdError
from duplexd.images.absent import AbsentLeg
from tests.sim import scenario
from tests.sim.bad_day import BadDay
from tests.sim.scenario import Scenario
from tests.sim.small import GRAIN_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from duplexd.backend import Extent
    from duplexd.core.change_history import KnownCut
    from duplexd.core.pair import Pair
    from tests.sim.machine import Machine

TRACKED_CUTS = 4  # so few that cuts are forgotten


class Copies:
    """What a backup would have read of each cut that a secondary stood at, byte by byte."""

    def __init__(self) -> None:
        self._by_cut: dict[tuple[int, str], bytes] = {}

    def take(self, machine: Machine, pair: Pair) -> None:
        """Of the cut that it is at, if it is at one."""
        cut = pair.cut
        if cut is not None and is_at_cut(pair, cut) and not isinstance(pair.secondary, AbsentLeg):
            self._by_cut[pair.id, cut.id] = machine.disk.content(pair.copy_of.path)

    def check(self, pair: Pair, since: str, until: str, extents: Iterable[tuple[int, int]]) -> bool:
        """An incremental copy is the later cut. Whether both cuts were copied."""
        before, after = self._by_cut.get((pair.id, since)), self._by_cut.get((pair.id, until))
        if before is None or after is None:
            return False
        made = bytearray(before)
        for offset, length in extents:
            made[offset : offset + length] = after[offset : offset + length]
        assert made == after, (
            f"{pair.name}: a copy of cut {since} and what changed until {until} is not that cut; "
            f"not in the extents: {[at for at in range(len(after)) if made[at] != after[at]][:9]}"
        )
        return True


async def check_changes(machine: Machine, copies: Copies, now: bool) -> Counter[str]:
    """All intervals of all volumes, with `now` up to now, where nothing may be in flight. Returns
    how many were compared: in all, by copies of their ends, and as dirty bitmaps.
    """
    compared = Counter[str]()
    for pair in machine.controller.volumes.all():
        copies.take(machine, pair)
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
                compared += await _check(machine, copies, pair, since, until)
    return compared


async def _check(
    machine: Machine, copies: Copies, pair: Pair, since: KnownCut, until: KnownCut | None
) -> Counter[str]:
    try:
        between = await machine.controller.changes.extents(
            pair.name, since.id, None if until is None else until.id
        )
    except DuplexdError:  # forgotten while another interval was read
        return Counter(intervals=1)
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
    if until is None:
        return Counter(intervals=1)
    copied = copies.check(pair, since.id, until.id, between.extents())
    dirty = await _dirty(machine, pair, since, until)
    if dirty is not None:
        copies.check(pair, since.id, until.id, dirty)
    return Counter(intervals=1, copied=copied, bitmaps=dirty is not None)


async def _dirty(
    machine: Machine, pair: Pair, since: KnownCut, until: KnownCut
) -> list[tuple[int, int]] | None:
    """The answer to NBD clients, in pieces of any size; None if `until` cannot be read now."""
    controller, rng = machine.controller, Random(since.sequence)
    point = controller.volume(f"{pair.name}@{until.id}")
    if not isinstance(point, Point) or since.id not in point.bitmaps():
        return None
    found: list[tuple[int, int]] = []
    at = 0
    while at < pair.size:
        answer: asyncio.Future[list[Extent]] = asyncio.get_running_loop().create_future()
        length = rng.randrange(1, pair.size - at + 1)
        controller.changed(point, at, length, since.id, rng.randrange(1, 5), answer.set_result)
        extents = await answer
        found += [(offset, nbytes) for offset, nbytes, is_dirty in extents if is_dirty]
        at += sum(nbytes for _, nbytes, _ in extents)
    return found


class ChangingDay(Scenario):
    """See above. `compared`: how many intervals were looked at, see `check_changes`."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.machine.tracked_cuts = TRACKED_CUTS
        self.copies = Copies()
        self.compared = Counter[str]()

    async def _busy(self) -> None:
        self.compared += await check_changes(self.machine, self.copies, now=True)
        await super()._busy()

    async def _rest(self) -> None:
        await super()._rest()
        self.compared += await check_changes(self.machine, self.copies, now=True)

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
        self.compared += await check_changes(self.machine, self.copies, now=False)

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


def run(seed: int, kind: Callable[[int], ChangingDay] = ChangingDay) -> Counter[str]:
    """One seed; a failure names it. Returns how many intervals were compared."""
    made: list[ChangingDay] = []

    def make(number: int) -> Scenario:
        made.append(kind(number))
        return made[0]

    scenario.run(seed, make)
    return made[0].compared


def run_bad(seed: int) -> Counter[str]:
    """The same on a bad day."""
    return run(seed, BadChangingDay)
