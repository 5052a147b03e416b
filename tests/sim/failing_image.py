"""Random days of one volume whose primary fails, hangs, loses what was in the cache, and is there
again; inside checkpoints, too. Nothing is ever exchanged: so an image that is refused as another
one is a fault, which days on which images are exchanged cannot show. What is served is compared
with what was flushed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from typing import TYPE_CHECKING, Literal

from duplexd.core import pair_states as state
from duplexd.errors import DuplexdError
from duplexd.runtime.watch import HungError
from duplexd.units import KIB
from tests.sim.machine import Died, Machine
from tests.sim.test_damage import Writing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from duplexd.backend import Change
    from duplexd.core.pair import Pair
    from duplexd.engine.image_snapshot import Plan
    from duplexd.engine.leg_syncs import Outcome

SIZE, BLOCK = 256 * KIB, 4096
PRIMARY = "/a/data"
PLACES = (0, 8192, 16384, 20480, 65536, 253952)
ANOTHER = ("changed", "older copy", "replaced", "emptied", "lost its mark", "foreign")
STEPS = 40


class _Writing(Writing):
    """Takes errors, too."""

    error = 0

    def finished(self, changes: Sequence[Change]) -> None:
        self.error = changes[0].error
        self.answers += len(changes)


class FailingImage:
    """The lives of one seed. A secondary that carries no mark may be refused at its cut, since
    nothing shows which it is; that is none of these.
    """

    def __init__(self, seed: int) -> None:
        self._rng = rng = random.Random(seed)
        self.history: list[str] = []
        self._machine = Machine(seed)
        self._machine.disk.unmarked = rng.random() < 0.5
        self._mirrored = rng.random() < 0.6
        self._mode: Literal["sync", "async"] = rng.choice(("sync", "sync", "async"))
        self._machine.add_volume("data", SIZE, self._mirrored, self._mode)
        self._content, self._written = bytearray(SIZE), 0
        self._unsure: set[int] = set()  # blocks of writes that had no answer, or an error
        self._steps, self._started = STEPS, False

    def run(self) -> None:
        """All lives. Raises AssertionError."""
        while self._steps > 0:
            with contextlib.suppress(Died):
                self._machine.live(self._life)
            self._heal()
            self._machine.crash(power=self._rng.random() < 0.3)
        self._machine.live(self._last)

    @property
    def _pair(self) -> Pair:
        return self._machine.controller.volumes.by_name["data"]

    # ---------------------------------------------------------------------------------- lives

    async def _life(self) -> None:
        rng = self._rng
        bad = rng.random() < 0.5 and self._started
        kind = rng.choice(("sync", "open", "write", "size")) if bad else ""
        if kind == "size":
            self._machine.add_volume("data", SIZE // 2, self._mirrored, self._mode)
        elif kind:
            after = rng.choice((0, 0, 1))
            self._machine.disk.fail(PRIMARY, errno.EIO, after=after, operation=kind)
        await self._start(kind)
        for _ in range(rng.randint(0, 2) if kind else 0):
            await self._checkpoint()
        if kind == "size":
            self._machine.add_volume("data", SIZE, self._mirrored, self._mode)
        self._heal()
        if kind == "sync" and self._pair.failed and rng.random() < 0.5:
            self._machine.disk.drop_cache(PRIMARY)
        self._check()
        while self._steps > 0 and rng.random() > 0.07:
            self._steps -= 1
            await self._do(rng.choices(list(self._usual), list(self._usual.values()))[0])
        self._machine.disk.die()
        await asyncio.sleep(0)

    async def _last(self) -> None:
        await self._start("")
        if self._pair.failed:
            await self._resync()
        self._check()
        await self._machine.controller.stop()

    async def _start(self, kind: str) -> None:
        self.history.append(f"start {kind}")
        await self._machine.start()
        self._started, self._writing = True, _Writing(self._machine)
        self._is_no_other(self._pair.failed)

    def _heal(self) -> None:
        for path in (PRIMARY, "/b/data"):
            self._machine.disk.heal(path)

    # --------------------------------------------------------------------------------- checks

    def _is_no_other(self, why: str) -> None:
        assert not any(word in why for word in ANOTHER), why

    def _check(self) -> None:
        if self._pair.failed:
            return
        found = self._machine.disk.content(self._pair.primary.path)
        for at in set(range(0, SIZE, BLOCK)) - self._unsure:
            assert found[at : at + BLOCK] == self._content[at : at + BLOCK], f"block {at}"

    # ---------------------------------------------------------------------------------- steps

    @property
    def _usual(self) -> dict[Callable[[], Awaitable[None]], int]:
        return {
            self._write: 30, self._checkpoint: 15, self._checkpoint_with: 15, self._fail: 8,
            self._hang: 6, self._resync: 16, self._bad_resync: 6, self._bad_sync: 5,
            self._swap: 4, self._suspend: 6, self._roll_forward: 2, self._pause: 4,
        }  # fmt: skip

    async def _do(self, step: Callable[[], Awaitable[None]]) -> None:
        self.history.append(getattr(step, "__name__", "").lstrip("_"))
        await step()

    async def _pause(self) -> None:
        await asyncio.sleep(self._rng.choice((0.01, 2.0)))

    async def _write(self) -> None:
        if self._pair.failed:
            return
        at, timeline = self._rng.choice(PLACES), self._machine.controller.timeline
        self._written += 1
        data = bytes([self._written % 250 + 1]) * BLOCK
        self._unsure.add(at)
        with contextlib.suppress(DuplexdError, OSError):
            await self._writing.write("data", at, data)
            if not self._writing.error:
                await timeline.durable(timeline.written)
                self._unsure.discard(at)
                self._content[at : at + BLOCK] = data

    async def _checkpoint(self) -> None:
        with contextlib.suppress(OSError, DuplexdError):
            await self._machine.controller.checkpointer.checkpoint()

    async def _checkpoint_with(self) -> None:
        """While it looks at the images, or is put on the disk, other things happen."""
        rng, checkpointer = self._rng, self._machine.controller.checkpointer
        samples = checkpointer._samples
        others = (self._fail, self._hang, self._resync, self._bad_resync, self._write, self._swap)
        steps = [rng.choice(others) for _ in range(rng.randint(1, 4))]
        begun: list[asyncio.Task[None]] = []

        async def all_steps() -> None:
            for step in steps:
                await self._do(step)

        async def meanwhile() -> None:
            if not begun:
                begun.append(asyncio.ensure_future(all_steps()))
                await asyncio.wait(begun, timeout=rng.choice((0, 0.05, 1)))

        put, take, before = checkpointer._put, samples.take, rng.random() < 0.5

        async def later(replace: Callable[[], None]) -> None:
            await meanwhile()
            await put(replace)

        async def looking(plan: Plan) -> list[Outcome]:
            if before:
                await meanwhile()
            found = await take(plan)
            await meanwhile()
            return found

        if rng.random() < 0.5:
            checkpointer._put = later  # type: ignore[method-assign]
        else:
            samples.take = looking  # type: ignore[method-assign]
        await self._checkpoint()
        checkpointer._put = put  # type: ignore[method-assign]
        samples.take = take  # type: ignore[method-assign]
        await asyncio.gather(*begun)

    async def _fails(self, error: OSError) -> None:
        pair, controller = self._pair, self._machine.controller

        def fail() -> None:
            if not pair.failed:
                controller.failures.primary_failed(pair, error)

        await controller.timeline.at_rest(fail)

    async def _fail(self) -> None:
        await self._fails(OSError(errno.EIO, "bad"))

    async def _hang(self) -> None:
        leg = self._pair.primary
        if not self._pair.failed:
            await self._fails(HungError(leg, 30.0))
            leg.close()

    async def _resync(self) -> None:
        self._heal()
        had_failed = self._pair.failed
        try:
            await self._machine.controller.resync(["data"])
        except DuplexdError as error:
            if had_failed:
                self._is_no_other(str(error))
        self._check()

    async def _bad_resync(self) -> None:
        if not self._pair.failed:
            return
        kind = self._rng.choice(("open", "write", "read"))
        after = self._rng.randint(0, 2) if kind == "write" else 0
        self._machine.disk.fail(PRIMARY, errno.EIO, after=after, operation=kind)
        try:
            await self._machine.controller.resync(["data"])
        except DuplexdError as error:
            self._is_no_other(str(error))
        self._heal()

    async def _bad_sync(self) -> None:
        """It fails, which may lose what was in the cache."""
        if self._pair.failed:
            return
        path = self._pair.primary.path
        self._machine.disk.fail(path, errno.EIO, operation="sync", times=1)
        await self._checkpoint()
        self._heal()
        if not self._is_served() and self._rng.random() < 0.7:
            self._machine.disk.drop_cache(path)

    def _is_served(self) -> bool:
        return not self._pair.failed

    def _is_duplex(self) -> bool:
        return self._pair.state == state.DUPLEX

    def _is_well(self) -> bool:
        return self._is_duplex() and self._is_served()

    async def _swap(self) -> None:
        if self._is_well():
            with contextlib.suppress(DuplexdError):
                await self._machine.controller.swap(["data"], False, None, False)

    async def _suspend(self) -> None:
        if self._is_well():
            with contextlib.suppress(DuplexdError):
                await self._machine.controller.suspend(["data"])

    async def _roll_forward(self) -> None:
        if self._mirrored and self._pair.failed and not self._is_duplex():
            with contextlib.suppress(DuplexdError):
                await self._machine.controller.swap(["data"], True, None, False)
            self._check()
