"""The scenario of `scenario.py` on bad days: whatever can fail does, on either leg, at any moment,
at a start too; images are missing, foreign or too short; and the images of pairs change roles.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from duplexd.backend import WRITE
from duplexd.core import pair_states as state
from duplexd.errors import DuplexdError, WrongStateError
from tests.sim import checks, scenario
from tests.sim.clients import SimClient
from tests.sim.history import Entry
from tests.sim.image import Image
from tests.sim.machine import broken_sync, no_space
from tests.sim.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.backend import Change
    from duplexd.core.pair import Pair

OPERATIONS = ("write", "zero", "reserve", "read", "sync", "open")


class BadDay(Scenario):
    """`bad`: paths of legs at which something may be wrong. `away`: images that were taken from
    their places.
    """

    losses = 0.4

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.faults = True
        self.bad: set[str] = set()
        self.was_bad: set[str] = set()  # in this life
        self.away: dict[str, Image] = {}
        self.adopting: dict[str, bytes] = {}  # by volume: what its image held
        self.swapping = False
        self.led: dict[str, str] = {}  # paths of primaries before the last swap by command
        self.wrong: list[str] = []  # primaries that were served again
        self._go_on: Callable[[Pair], None] = lambda _pair: None
        self.machine.images_untouched = self.rng.random() < 0.4
        self.machine.refuses = self._may_refuse
        self.machine.history.gives_up = self._gives_up

    # ------------------------------------------------------------------------ what may be refused

    def _may_refuse(self, change: Change) -> bool:
        """A change fails only where no good leg is left that has all changes."""
        pair = self.machine.controller.volumes.by_name[change.volume.name]
        if pair.failed:
            return True
        paths = {pair.primary.path, self.led.get(pair.name, "")}
        faults = self.machine.disk.faults
        bad = any(path in self.was_bad or faults.any(path) for path in paths if path)
        if not bad or pair.mirrors:
            return False
        self.unsure.add(pair.name)
        return True

    def _gives_up(self, volume: int) -> int | None:
        controller = self.machine.last
        if controller is None:  # a start swaps what is equal
            return None
        record = controller.timeline.ledger.pairs[volume]
        return record.applied if record.state == state.SUSPENDED else None

    # --------------------------------------------------------------------------------- what fails

    def _legs(self) -> list[str]:
        return [
            str(path)
            for volume in self.machine.volumes.values()
            for path in (volume.primary, volume.secondary)
            if path is not None
        ]

    async def _start(self) -> None:
        machine, rng = self.machine, self.rng
        self.unsure.clear()
        self.was_bad = set(self.bad)
        if not self._last:
            for _ in range(rng.choice((0, 0, 1, 1, 2))):
                self._bad_start(rng.choice(self._legs()))
        await machine.start()
        failures = machine.controller.failures
        accept = failures.on_served

        def served(pair: Pair) -> None:
            accept(pair)
            self._look_at_served(pair)

        failures.on_served = served
        self._look_at_adopted()
        failures = machine.controller.failures
        self._go_on, failures.on_served = failures.on_served, self._is_served

    def _is_served(self, pair: Pair) -> None:
        """It has what the journal says, or part of what a power cut took from the journal."""
        if pair.name not in self.adopting and not self.swapping:
            content = self.machine.disk.content(pair.primary.path)
            history = self.machine.history
            history.bases.setdefault(pair.id, content)
            if problem := history.found(pair.id, content):
                self.wrong.append(f"primary of {pair.name}, which is served again: {problem}")
        self._go_on(pair)

    async def _administrate(self) -> None:
        await super()._administrate()
        assert not self.wrong, self.wrong[0]

    def _look_at_served(self, pair: Pair) -> None:
        """What a power cut left behind the last number counts as the present, as at a start."""
        machine = self.machine
        if pair.id < 0 or pair.name in self.adopting or machine.history.goes_back(pair.id):
            return
        actual = machine.disk.content(pair.primary.path)
        machine.history.seen(pair.id, actual, pair.record.primary_image is not None)
        problem = machine.history.found(pair.id, actual)
        assert not problem, f"primary of {pair.name}, served again: {problem}"

    def _bad_start(self, path: str) -> None:
        machine, rng = self.machine, self.rng
        kinds = ["read", "write", "sync", "open", "dead", "torn"]
        if machine.disk.has(path) and not machine.images_untouched:
            kinds += ["missing", "foreign", "short"]
        kind = rng.choice(kinds)
        machine.note(f"at the start: {kind} {path}")
        if kind in {"missing", "foreign", "short"}:
            self._take(path, kind)
        else:
            self._break(path, kind, rng.choice((0, 0, 0, 1, 3, 10)))

    def _is_bad(self, path: str) -> None:
        self.bad.add(path)
        self.was_bad.add(path)

    def _take(self, path: str, kind: str) -> None:
        disk = self.machine.disk
        self._is_bad(path)
        image = disk.take(path)
        self.away.setdefault(path, image)
        if kind == "foreign":
            disk.give(path, Image.of(self.rng.randbytes(image.size)))
        elif kind == "short":
            disk.give(path, Image.of(bytes(image.current[: image.size // 2])))

    def _break(self, path: str, kind: str, after: int) -> None:
        machine, rng = self.machine, self.rng
        disk, times = machine.disk, rng.choice((1, 1, 3, None))
        self._is_bad(path)
        if kind == "full":
            no_space(machine, path)
        elif kind == "torn":
            disk.tear(path, after=after)
        elif kind == "write":
            for operation in ("write", "zero"):
                disk.fail(path, errno.EIO, after=after, operation=operation, times=times)
        elif kind == "dead":
            for operation in OPERATIONS:
                disk.fail(path, errno.EIO, after=after, operation=operation)
        elif kind == "sync":
            broken_sync(machine, path)
        else:
            disk.fail(path, errno.EIO, after=after, operation=kind, times=times)

    async def _trouble(self) -> None:
        if self.rng.random() < 0.2:
            await super()._trouble()
            return
        path = self.rng.choice(self._legs())
        self.cuts.promised.clear()
        kind = self.rng.choice(("full", "torn", "write", "read", "sync", "dead", "dead"))
        self.machine.note(f"  {kind} {path}")
        self._break(path, kind, self.rng.randint(0, 8))

    def _heal(self) -> None:
        """All disks are good again, and all images in their places, but for those in whose place
        another one is used now.
        """
        super()._heal()
        disk = self.machine.disk
        for path in self._legs():
            disk.heal(path)
        self.bad = {path for path in self.bad if path in self.away}
        for path, image in list(self.away.items()):
            if not disk.has(path) or not disk.in_use(path):
                disk.give(path, image)
                self.bad.discard(path)
            del self.away[path]

    def _put_new_images(self) -> None:
        """In the places of secondaries that could not be created when they were new."""
        disk = self.machine.disk
        for name, volume in self.machine.volumes.items():
            if volume.secondary and not disk.has(path := checks.secondary_path(name)):
                disk.give(path, Image(volume.size))

    # ------------------------------------------------------------------------- what is done to it

    def _actions(self) -> list[Callable[[], Awaitable[None]]]:
        return [*super()._actions(), self._swap, self._swap, self._bring_back, self._bring_back]

    async def _swap(self) -> None:
        machine, rng = self.machine, self.rng
        names = self._names()[: rng.choice((1, 1, 3))]
        if not names:
            return
        self.cuts.forget(names)
        how = rng.choice(("plain", "forward", "forward", "lose"))
        machine.note(f"  {how} {names}")
        if rng.random() < 0.4:
            await self._checkpoint_between_images()
        by_name, self.swapping = machine.controller.volumes.by_name, True
        self.led = {name: by_name[name].primary.path for name in names}
        try:
            result = await machine.controller.swap(names, how == "forward", None, how == "lose")
        finally:
            self.swapping = False
        machine.note(f"  {[(each['name'], each['primary']) for each in result['volumes']]}")
        if rng.random() < 0.3:  # before a checkpoint knows of it
            self.power_fails = True
            machine.disk.die()

    async def _checkpoint_between_images(self) -> None:
        """It finds the secondaries of `async` pairs behind."""
        writing = asyncio.ensure_future(SimClient(self.machine, self.rng, 0).run(3))
        try:
            await asyncio.sleep(0)
            await self.machine.controller.checkpointer.checkpoint()
        finally:
            await writing

    async def _bring_back(self) -> None:
        """Volumes that are not served, by the journal, or as their images are."""
        controller, rng = self.machine.controller, self.rng
        if rng.random() < 0.7:
            self._heal()
        for name, pair in list(controller.volumes.by_name.items()):
            if pair.failed:
                self.cuts.forget([name])
                try:
                    await controller.resync([name])
                except WrongStateError as error:
                    self.machine.note(f"  {error}")
                    if "adopt" in str(error) and rng.random() < 0.5:
                        await self._adopt(name)

    async def _adopt(self, name: str) -> None:
        machine = self.machine
        pair = machine.controller.volumes.by_name[name]
        self.machine.note(f"  adopt {name}")
        if not machine.disk.has(pair.primary.path):
            return
        machine.disk.drop_cache(pair.primary.path)  # as the daemon does
        content = self.adopting[name] = machine.disk.content(pair.primary.path)
        number = machine.controller.timeline.written + 0.4
        try:
            await machine.controller.adopt([name])
        except DuplexdError:
            del self.adopting[name]
            raise
        del self.adopting[name]
        self._rebase(pair.id, number, content)

    def _rebase(self, volume: int, number: float, content: bytes) -> None:
        """From this number on the volume is what its adopted image held."""
        entries = self.machine.history.entries
        entries.append(Entry(number, WRITE, volume, 0, content))
        entries.sort(key=lambda entry: entry.sequence)

    def _look_at_adopted(self) -> None:
        """Died in an `adopt`: it was done, or not."""
        machine = self.machine
        for name, content in self.adopting.items():
            pair = machine.controller.volumes.by_name[name]
            if not pair.failed and machine.disk.content(pair.primary.path) == content:
                self._rebase(pair.id, machine.history.tail + 0.4, content)
        self.adopting.clear()

    async def _end(self) -> None:
        """Nothing is wrong any more: every volume is served again, from the journal where that is
        possible at all.
        """
        controller = self.machine.controller
        self._put_new_images()
        for name, pair in list(controller.volumes.by_name.items()):
            if pair.failed:
                try:
                    await controller.resync([name])
                except WrongStateError:
                    await self._adopt(name)
        assert not self.wrong, self.wrong[0]
        await super()._end()


class HangingDay(BadDay):
    """The same, and disks that do not answer for a while, or never again. What was given up takes
    effect later.
    """

    patience_s = 900.0

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.machine.may_hang = True
        self.machine.patience_s = 600.0

    def _bad_start(self, path: str) -> None:
        if self.rng.random() < 0.5:
            self._hang(path)
        else:
            super()._bad_start(path)

    async def _trouble(self) -> None:
        if self.rng.random() < 0.5:
            self.cuts.promised.clear()
            self._hang(self.rng.choice(self._legs()))
        else:
            await super()._trouble()

    def _hang(self, path: str) -> None:
        machine, rng = self.machine, self.rng
        assert machine.hangs is not None
        if len(machine.disk.hanging) >= 2:
            return
        seconds = rng.choice((0.3, 3, 8, 40, 200, 1e6))
        machine.note(f"  {path} hangs for {seconds} s")
        self._is_bad(path)
        machine.disk.hanging[path] = rng.choice((0, 0, 1, 5))
        machine.loop.call_later(seconds, machine.hangs.answer, path)

    def _heal(self) -> None:
        super()._heal()
        machine = self.machine
        for path in list(machine.disk.hanging):
            if machine.hangs is not None:
                machine.hangs.answer(path)


def run(seed: int) -> None:
    """One seed; a failure names it."""
    scenario.run(seed, BadDay)


class UnmarkedDay(BadDay):
    """The same with images that carry no mark and no time, like block devices: only samples, or a
    comparison, show which is which. A primary has nothing to be compared with: after a power cut
    that may have taken any of its changes, no start can know that it is another one.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.machine.disk.unmarked = True

    def _take(self, path: str, kind: str) -> None:
        last = self.machine.last
        pairs = last.volumes.all() if last is not None else []
        primaries = {pair.primary.path for pair in pairs}
        leads = path in primaries or not pairs  # a start that died may have known of a swap
        super()._take(path, "missing" if leads and kind == "foreign" else kind)


def run_unmarked(seed: int) -> None:
    """The same without marks."""
    scenario.run(seed, UnmarkedDay)


def run_hanging(seed: int) -> None:
    """The same with disks that hang."""
    scenario.run(seed, HangingDay)
