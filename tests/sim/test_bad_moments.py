"""Two things at the same time that once did not go together, at every moment."""

from __future__ import annotations

import asyncio

from duplexd.units import KIB
from tests.sim.machine import Died, Machine
from tests.sim.test_damage import Writing


def gets_a_secondary_during_a_checkpoint(seed: int) -> None:
    """And is killed. `Machine.crash` asks whether a start would recognise the images."""
    machine = Machine(seed)
    machine.add_volume("data", 256 * KIB, False, "sync")

    async def life() -> None:
        await machine.start()
        writing, controller = Writing(machine), machine.controller
        for offset in range(0, 256 * KIB, 32 * KIB):
            await writing.write("data", offset, b"a" * 4096)
        machine.add_volume("data", 256 * KIB, True, "sync")
        reloading = asyncio.ensure_future(controller.reload(machine.config()))
        for _ in range(seed % 40):
            await asyncio.sleep(0)
        await controller.checkpointer.checkpoint()
        await reloading
        machine.disk.die()
        await asyncio.sleep(0)

    try:
        machine.live(life)
    except Died:
        machine.crash(power=False)


def test_a_volume_that_gets_a_secondary_during_a_checkpoint_is_recognised_after_a_kill() -> None:
    for seed in range(60):
        gets_a_secondary_during_a_checkpoint(seed)
