"""A copy of several volumes on disks that do not answer. With real threads, because only these can
hang.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from typing import TYPE_CHECKING

from duplexd.core.pair_states import DUPLEX, SUSPENDED
from tests.unit.engine.test_recovery_hangs import BOTH, killed, started

if TYPE_CHECKING:
    from duplexd.engine.controller import Controller
    from tests.sim.disk import SimDisk


class Answering:
    """`/b/data.img` hangs until another image is written, and answers in the middle of that."""

    def __init__(self, disk: SimDisk) -> None:
        self._answers = threading.Event()
        self._hung: threading.Thread | None = None
        disk.met = self._look

    def _look(self, operation: str, path: str) -> None:
        if operation != "write" or path not in {"/b/data.img", "/b/apart.img"}:
            return
        if path == "/b/data.img" and self._hung is None:
            self._hung = threading.current_thread()
            assert self._answers.wait(60)
        elif path == "/b/apart.img" and self._hung is not None:
            self._answers.set()
            self._hung.join(5)  # it was given up, so it ends


async def _lose_secondaries(disk: SimDisk, controller: Controller) -> None:
    """All of them has to be copied again."""
    await controller.suspend(list(BOTH))
    for name in BOTH:
        pair = controller.volumes.by_name[name]
        pair.secondary_dirty = True
        disk.fail(f"/b/{name}.img", errno.EIO, operation="sync", times=1)
    await controller.checkpointer.checkpoint()
    assert not any(pair.usable for pair in controller.volumes.all())


def test_a_copy_goes_on_when_a_disk_answers_that_it_has_given_up() -> None:
    disk = killed()

    async def scenario() -> None:
        async with started(disk) as controller:
            await controller.resync_wait(list(BOTH))
            await _lose_secondaries(disk, controller)
            Answering(disk)
            await controller.resync(list(BOTH))
            await asyncio.wait_for(controller.resync_wait(["apart"]), 20)
            states = {pair.name: pair.state for pair in controller.volumes.all()}
            assert states == {"data": SUSPENDED, "apart": DUPLEX}

    asyncio.run(scenario())
