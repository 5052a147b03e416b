"""The scenario of `scenario.py` with volumes that grow, by a reload or at the next start.

History knows one size of a volume. So everything is compared at the largest one: what a volume or
an image does not have yet counts as zeroes, and that is what it has to become.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.config.daemon_file import VolumeConfig
from duplexd.core import pair_states
from duplexd.units import KIB
from tests.sim import scenario
from tests.sim.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.sim.machine import Machine

SIZE_MAX = 1024 * KIB


def compare_at_largest(machine: Machine) -> None:
    """What is looked at of images, and what a volume holds at its birth, is of `SIZE_MAX`."""
    content = machine.disk.content
    born = machine.history.found_at_birth

    def padded(path: str) -> bytes:
        found = content(path)
        return found.ljust(SIZE_MAX, b"\0") if path.startswith(("/a/", "/b/")) else found

    machine.disk.content = padded  # type: ignore[method-assign]
    machine.history.found_at_birth = lambda name, size: born(name, size).ljust(SIZE_MAX, b"\0")


def resize(machine: Machine, name: str, size: int) -> None:
    """In the configuration."""
    volume = machine.volumes[name]
    machine.volumes[name] = VolumeConfig.model_construct(
        size=size, primary=volume.primary, secondary=volume.secondary, mode=volume.mode
    )


def check_sizes(machine: Machine) -> None:
    """No image is shorter than its volume, and no record reaches past the end of one."""
    for pair in machine.controller.volumes.all():
        for leg in (pair.primary, pair.secondary):
            if leg is not None and machine.disk.has(leg.path) and not pair.failed:
                there = machine.disk.size(leg.path)
                assert there >= pair.size, f"{leg.path} has {there} of {pair.size} bytes"
        assert pair.record.size == pair.size


class GrowingDay(Scenario):
    """Some volumes also grow while no daemon runs: the start makes them larger."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        compare_at_largest(self.machine)

    async def _start(self) -> None:
        machine, rng = self.machine, self.rng
        if machine.last is not None and rng.random() < 0.3:
            self._enlarge(rng.choice(list(machine.volumes)))
        await machine.start()
        check_sizes(machine)
        for name, pair in machine.controller.volumes.by_name.items():
            wanted = machine.volumes[name].size
            assert pair.size == wanted or self.faults, f"{name} has {pair.size}, not {wanted}"

    def _enlarge(self, name: str) -> int:
        size = self.machine.volumes[name].size
        larger = min(SIZE_MAX, size + self.rng.choice((4, 64, 256)) * KIB)
        resize(self.machine, name, larger)
        return larger

    def _actions(self) -> list[Callable[[], Awaitable[None]]]:
        return [*super()._actions(), self._grow, self._grow, self._grow]

    async def _grow(self) -> None:
        machine, rng = self.machine, self.rng
        controller = machine.controller
        names = rng.sample(list(controller.volumes.by_name), 1 + (rng.random() < 0.3))
        pairs = controller.volumes.named(names)
        machine.note(f"  {names} to {[self._enlarge(name) for name in names]}")
        machine.note(f"  {[pair.state for pair in pairs]}")
        grow = [pair for pair in pairs if machine.volumes[pair.name].size > pair.size]
        try:
            await controller.reload(machine.config())
        finally:
            if not machine.disk.dead:
                check_sizes(machine)
                for pair in pairs:  # refused: as if it had never been asked for
                    resize(machine, pair.name, pair.size)
        assert not grow or any(pair.state != pair_states.PENDING for pair in pairs)


def run(seed: int) -> None:
    """One seed; a failure names it."""
    scenario.run(seed, GrowingDay)
