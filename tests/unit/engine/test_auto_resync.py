"""Pairs that a failed secondary suspended come back by themselves; those of a command do not."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from duplexd.core.pair_states import BY_ERROR, BY_GROUP, DUPLEX, SUSPENDED
from duplexd.engine.auto_resync import AutoResync
from duplexd.errors import WrongStateError
from duplexd.limits import EngineLimits
from tests.unit.engine.cores import Core, new_disk, running, settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.json_object import Json

LIMITS = EngineLimits()
THREE = {"data": "sync", "mate": "sync", "apart": "sync"}
DB = {"db": ["data", "mate"]}


class ByHand:
    """The part on a controller, looking when a test says so; `asked` are its attempts. `refusal` is
    raised by each.
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self.asked: list[list[str]] = []
        self.refusal: Exception | None = None
        controller = core.controller
        self.auto = AutoResync(
            controller.timeline,
            controller.volumes,
            self._resync,
            controller.events,
            core.clock,
            LIMITS,
        )

    async def _resync(self, names: Sequence[str]) -> Json:
        self.asked.append(list(names))
        if self.refusal is not None:
            raise self.refusal
        return await self.core.controller.resync(names)

    async def look(self, after_s: float = 0.0) -> None:
        self.core.clock.now += after_s
        await self.auto.look()


async def fail(core: Core, name: str = "data") -> None:
    """Its secondary refuses a write, and is well again."""
    leg = core.secondary(name)
    leg.fail("write", errno.EIO, times=1)
    await core.write(name, 0, b"x" * 4096)
    assert core.pair(name).reason == BY_ERROR


async def test_a_pair_whose_secondary_failed_is_duplex_again() -> None:
    async with running() as core:
        await fail(core)
        by_hand = ByHand(core)
        await by_hand.look()
        assert not by_hand.asked, "not at once"
        await by_hand.look(LIMITS.auto_resync_pause_seconds_min)
        assert by_hand.asked == [["data"]]
        await core.until(lambda: core.pair().state == DUPLEX)
        assert core.equal()


async def test_a_cut_by_command_is_not_left() -> None:
    async with running() as core:
        await core.controller.suspend(["data"])
        by_hand = ByHand(core)
        for _ in range(5):
            await by_hand.look(1000.0)
        assert not by_hand.asked
        assert core.states() == {"data": SUSPENDED}


async def test_its_group_comes_back_with_it_and_nothing_else_does() -> None:
    async with running(THREE, DB) as core:
        await core.controller.suspend(["apart"])
        await fail(core)
        assert core.pair("mate").reason == BY_GROUP
        by_hand = ByHand(core)
        await by_hand.look()
        await by_hand.look(1.0)
        assert by_hand.asked == [["data", "mate"]]
        await core.until(
            lambda: core.states() == {"data": DUPLEX, "mate": DUPLEX, "apart": SUSPENDED}
        )


async def test_what_the_journal_suspended_comes_back_together() -> None:
    async with running(THREE, DB) as core:
        timeline, failures = core.controller.timeline, core.controller.failures
        pairs, why = {core.pair("data"), core.pair("mate")}, OSError(errno.EIO, "unreadable")
        await timeline.at_rest(
            lambda: failures.freeze(pairs, None, timeline.written, why, set(), {})
        )
        by_hand = ByHand(core)
        await by_hand.look()
        await by_hand.look(LIMITS.auto_resync_pause_seconds_min)
        assert by_hand.asked == [["data", "mate"]]
        await core.until(lambda: set(core.states().values()) == {DUPLEX})


async def test_its_group_stays_at_its_cut_until_the_failed_one_can_come_back() -> None:
    """Together they are the newest consistent copy."""
    async with running(THREE, DB) as core:
        await fail(core)
        by_hand = ByHand(core)
        by_hand.refusal = WrongStateError("/b/data.img: no such file")
        for _ in range(50):
            await by_hand.look(100.0)
        assert core.states() == {"data": SUSPENDED, "mate": SUSPENDED, "apart": DUPLEX}
        by_hand.refusal = None
        await by_hand.look(1000.0)
        await core.until(lambda: set(core.states().values()) == {DUPLEX})


async def test_a_group_whose_failed_pair_is_back_comes_back_as_well() -> None:
    async with running(THREE, DB) as core:
        await fail(core)
        await core.controller.resync(["data"])
        await core.until(lambda: core.pair().state == DUPLEX)
        by_hand = ByHand(core)
        await by_hand.look()
        await by_hand.look(1.0)
        assert by_hand.asked == [["mate"]]
        await core.until(lambda: core.pair("mate").state == DUPLEX)


async def test_attempts_that_fail_are_reported_and_grow_rare() -> None:
    async with running() as core:
        await fail(core)
        by_hand = ByHand(core)
        by_hand.refusal = OSError(errno.EIO, "/b/data.img: Input/output error", "/b/data.img")
        for _ in range(100):
            await by_hand.look(1.0)
        events = core.named("resync-failed")
        assert 4 <= len(by_hand.asked) == len(events) <= 7
        assert events[0]["error"] == "/b/data.img: Input/output error"
        assert events[0]["path"] == "/b/data.img"
        assert [event["next_attempt_s"] for event in events[:4]] == [2.0, 4.0, 8.0, 16.0]


async def test_a_controller_does_it_if_its_configuration_says_so() -> None:
    for automatic in (False, True):
        config = settings()
        section = config.controller.model_copy(update={"auto_resync": automatic})
        core = await Core.begin(new_disk(), config.model_copy(update={"controller": section}))
        await fail(core)
        for _ in range(4):
            core.clock.now += LIMITS.auto_resync_pause_seconds_min
            await asyncio.sleep(LIMITS.auto_resync_look_seconds)
        assert core.states() == {"data": DUPLEX if automatic else SUSPENDED}
        await core.controller.stop()
