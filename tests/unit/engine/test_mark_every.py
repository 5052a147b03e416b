"""`mark_every`: when a group is marked by itself, and what is said when it cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.engine.events import Events
from duplexd.engine.mark_every import Marking
from duplexd.errors import WrongStateError
from duplexd.limits import EngineLimits
from tests.unit.engine.cores import Core, running

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.json_object import Json

TWO = {"data": "sync", "wal": "sync"}
GROUPS = {"db": ["data", "wal"], "one": ["data"]}


class Wanted:
    """What is marked; with `wrong`, nothing is."""

    def __init__(self, core: Core) -> None:
        self.done: list[list[str]] = []
        self.wrong = False
        self.events: list[Json] = []
        self._core = core
        events = Events(core.clock)
        events.listeners.append(self.events.append)
        controller = core.controller
        self.marking = Marking(
            controller.timeline, controller.volumes, self._mark, events, core.clock, EngineLimits()
        )

    async def _mark(self, names: Sequence[str]) -> Json:
        if self.wrong:
            raise WrongStateError("nothing was marked: no room")
        self.done.append(list(names))
        return {}

    async def at(self, seconds: float) -> int:
        """How many more were made at that moment."""
        before = len(self.done)
        self._core.clock.now = 1000.0 + seconds
        await self.marking.look()
        return len(self.done) - before


async def test_a_group_is_marked_at_once_and_then_as_often_as_it_says() -> None:
    async with running(TWO, GROUPS) as core:
        wanted = Wanted(core)
        wanted.marking.take({"db": 10.0})
        counts = [await wanted.at(second) for second in (0, 5, 9.9, 10.4, 19.9, 20, 20.1, 30)]
        assert counts == [1, 0, 0, 1, 0, 1, 0, 1]
        assert wanted.done == [["data", "wal"]] * 4
        await wanted.marking.stop()


async def test_what_was_missed_is_not_made_up_for() -> None:
    async with running(TWO, GROUPS) as core:
        wanted = Wanted(core)
        wanted.marking.take({"db": 10.0})
        assert [await wanted.at(second) for second in (0, 95, 96, 104, 105)] == [1, 1, 0, 0, 1]
        await wanted.marking.stop()


async def test_a_reload_changes_only_the_groups_that_it_changes() -> None:
    async with running(TWO, GROUPS) as core:
        wanted = Wanted(core)
        wanted.marking.take({"db": 10.0})
        await wanted.at(0)
        wanted.marking.take({"db": 10.0, "one": 1.0})
        assert await wanted.at(5) == 1
        assert wanted.done[-1] == ["data"]
        wanted.marking.take({"one": 1.0})
        assert await wanted.at(10) == 1
        wanted.marking.take({})
        assert await wanted.at(20) == 0


async def test_that_it_fails_is_said_once_until_it_succeeds_again() -> None:
    async with running(TWO, GROUPS) as core:
        wanted = Wanted(core)
        wanted.marking.take({"db": 1.0})
        for second, wrong in enumerate((True, True, False, True, True)):
            wanted.wrong = wrong
            await wanted.at(second)
        assert [(each["event"], each["group"]) for each in wanted.events] == [
            ("mark-failed", "db")
        ] * 2
        assert "no room" in wanted.events[0]["error"]
        await wanted.marking.stop()
