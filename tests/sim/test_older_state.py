"""A copy of the state directory that was made while clients write, and put back after a crash some
seconds later: no volume that was written to since is served, and no image is written to.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import pytest

from duplexd.engine.mark_numbers import MarkNumbers
from duplexd.units import KIB
from tests.sim.clients import SimClient
from tests.sim.machine import Died, Machine

if TYPE_CHECKING:
    from tests.sim.image import Image

SEEDS, CHUNK = 40, 10
# The periodic sync, and the look at what it synced: each may come a second after the last change
SECONDS = 3.0
MODES: tuple[Literal["sync", "async"], ...] = ("sync", "async")


class Rollback:
    """One life of which the state directory is copied, and a start with that copy."""

    def __init__(self, seed: int) -> None:
        self.machine = Machine(seed)
        self.rng = self.machine.rng
        self.copied: dict[str, Image] = {}
        self.then: dict[str, bytes] = {}  # what the primaries held when it was copied
        for number in range(self.rng.randint(1, 4)):
            secondary, mode = self.rng.random() < 0.8, self.rng.choice(MODES)
            self.machine.add_volume(f"v{number}", 128 * KIB, secondary, mode)

    def contents(self, side: str = "a") -> dict[str, bytes]:
        names = self.machine.volumes
        return {name: self.machine.disk.content(f"/{side}/{name}") for name in names}

    async def life(self) -> None:
        machine, rng = self.machine, self.rng
        await machine.start()
        await SimClient(machine, rng).run(rng.randint(1, 20))
        await asyncio.sleep(rng.choice((0, 0.5, 2)))
        self.copied, self.then = machine.disk.copies("/state"), self.contents()
        await SimClient(machine, rng).run(rng.randint(1, 20))
        if rng.random() < 0.3:
            await asyncio.wait_for(machine.controller.stop(), 100)
            return
        await asyncio.sleep(SECONDS)
        machine.disk.die()

    def run(self) -> tuple[set[str], set[str]]:
        """The volumes that were written to since, and those that a start does not serve."""
        machine = self.machine
        with machine.history.tapped():
            try:
                machine.live(self.life)
            except Died:
                machine.crash(power=False)
        written = {name for name, now in self.contents().items() if now != self.then[name]}
        before = self.contents("a")
        machine.disk.put("/state", self.copied)
        after = Machine(0)
        after.disk, after.volumes = machine.disk, machine.volumes
        refused: set[str] = set()

        async def start() -> None:
            await after.start()
            for name, pair in after.controller.volumes.by_name.items():
                refused.update([name] if pair.failed else [])
            await after.controller.stop()

        after.live(start)
        changed = {name for name, now in self.contents("a").items() if now != before[name]}
        assert not changed & written, "an old block was written over a new one"
        return written, refused


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_what_was_written_since_the_copy_is_not_served(first: int) -> None:
    found = 0
    for seed in range(first, first + CHUNK):
        written, refused = Rollback(seed).run()
        assert written <= refused, f"seed {seed}: {written - refused} is served"
        found += len(written)
    assert found, "something was written"


def test_without_the_marks_it_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(_self: MarkNumbers) -> None:
        """Marks nothing."""

    monkeypatch.setattr(MarkNumbers, "look", nothing)
    served = 0
    for seed in range(CHUNK):
        try:
            written, refused = Rollback(seed).run()
            served += len(written - refused)
        except AssertionError:  # and an image was written to
            served += 1
    assert served
