"""Scenarios in which cuts are read: named readers come and go, with crashes and faults in between.

What each reader was promised is noted here: while it has not ended, by its own command or by an
event that says so, its secondary is at the cut that it began at, after every crash, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core import pair_states as state
from duplexd.core.leaving import Leaving
from duplexd.engine.cut_readers import FORCED, RELEASED
from tests.sim import scenario
from tests.sim.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.core.pair import Pair
    from duplexd.json_object import Json


class BeingRead(Scenario):
    """A scenario with readers. `reading`: cut and volumes of each, by its name."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.reading: dict[str, tuple[str, set[str]]] = {}
        self.moved: list[str] = []  # from under a reader, and not by a failure
        self._number = 0

    def _actions(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            *super()._actions(), self._suspend_and_read, self._suspend_and_read, self._release,
            self._resync_by_reader, self._force,
        ]  # fmt: skip

    async def _start(self) -> None:
        await super()._start()
        self.machine.controller.listeners.append(self._heard)
        self._drop_failed()
        self._check_readers()

    async def _administrate(self) -> None:
        await super()._administrate()
        self._check_readers()

    def _heard(self, event: Json) -> None:
        if event["event"] == "reader-ended" and event["reader"] in self.reading:
            cut, volumes = self.reading[event["reader"]]
            if event["reason"] not in {RELEASED, FORCED}:
                self.moved += [
                    name for name in event["volumes"] if self._pair(name).state != state.SUSPENDED
                ]
            self.reading[event["reader"]] = (cut, volumes - set(event["volumes"]))

    def _drop_failed(self) -> None:
        """What a start suspended anew, because its secondary failed, was in an event of the
        start, before anybody could listen.
        """
        for name, (cut, volumes) in self.reading.items():
            failed = {each for each in volumes if self._pair(each).reason == state.BY_ERROR}
            self.reading[name] = (cut, volumes - failed)

    def _pair(self, name: str) -> Pair:
        return self.machine.controller.volumes.by_name[name]

    def _check_readers(self) -> None:
        assert not self.moved, f"{self.moved} were moved under a reader"
        for reader, (cut, volumes) in self.reading.items():
            for name in volumes:
                pair = self._pair(name)
                assert pair.state == state.SUSPENDED, f"{name} is {pair.state}, read by {reader}"
                assert pair.cut is not None
                assert pair.cut.id == cut, f"{name} is at {pair.cut.id}, {reader} reads {cut}"
                assert reader in pair.record.readers, f"{name} has lost its reader {reader}"

    async def _suspend_and_read(self) -> None:
        names, self._number = self._names(), self._number + 1
        reader = f"r{self._number}"
        existing = self.rng.random() < 0.3
        result = await self.machine.controller.suspend(
            names, "read", None, existing=existing, reader=reader
        )
        self.cuts.returned(result)
        if result["reader"]:
            self.reading[reader] = (result["cut"], set(result["volumes"]))
            self.machine.note(f"  {reader} reads {result['cut']} of {names}")

    def _some_reader(self) -> tuple[str, list[str]] | None:
        standing = [(name, volumes) for name, (_, volumes) in self.reading.items() if volumes]
        if not standing:
            return None
        name, volumes = self.rng.choice(standing)
        return name, sorted(volumes)

    async def _release(self) -> None:
        if (found := self._some_reader()) is not None:
            reader, names = found
            del self.reading[reader]  # also if it dies on the way: then it may be there still
            await self.machine.controller.release_reader(names, reader)

    async def _resync_by_reader(self) -> None:
        if (found := self._some_reader()) is None:
            return
        reader, names = found
        cut, _ = self.reading.pop(reader)
        self.cuts.forget(names)
        await self.machine.controller.resync(names, how=Leaving(cut, reader))

    async def _force(self) -> None:
        names = self._names()
        self.cuts.forget(names)
        for reader, (cut, volumes) in self.reading.items():
            self.reading[reader] = (cut, volumes - set(names))
        await self.machine.controller.resync(names, how=Leaving(force=True))

    async def _end(self) -> None:
        """Nobody reads any more."""
        controller = self.machine.controller
        for name, pair in controller.volumes.by_name.items():
            for reader in list(pair.record.readers):
                await controller.release_reader([name], reader)
        self.reading.clear()
        await super()._end()


def run(seed: int) -> None:
    """One seed."""
    scenario.run(seed, BeingRead)
