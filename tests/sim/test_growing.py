"""Volumes grow, and the daemon dies at any moment of it: no byte is lost, and none is made up."""

from __future__ import annotations

import pytest

from duplexd.core import pair_states as state
from duplexd.units import KIB
from tests.sim import checks, growing
from tests.sim.checks import Cuts
from tests.sim.growing import check_sizes, compare_at_largest, resize
from tests.sim.machine import Died, Machine
from tests.sim.test_damage import Writing

SEEDS, CHUNK, LONG_SEEDS, LONG_CHUNK = 16, 8, 3000, 100
OPERATIONS_MAX = 200
SMALL, LARGE = 128 * KIB, 320 * KIB


def cut_short(operation: int, power: bool, suspended: bool) -> bool:
    """A life that dies at the `operation`-th operation of a reload that makes volumes larger, and
    one that recovers with that configuration. False if the first ended before that.
    """
    machine, cuts = Machine(operation), Cuts()
    for name, mode in (("data", "sync"), ("wal", "async")):
        machine.add_volume(name, SMALL, True, mode)  # type: ignore[arg-type]
    machine.add_volume("alone", SMALL, False, "sync")
    names = ["data", "wal"]
    compare_at_largest(machine)

    async def dies() -> None:
        await machine.start()
        checks.check_primaries(machine)
        writing, controller = Writing(machine), machine.controller
        for name in (*names, "alone"):
            await writing.write(name, SMALL - 4096, b"a" * 4096)
        if suspended:
            cuts.returned(await controller.suspend(names))
            await writing.write("data", 8192, b"b" * 4096)
        await writing.flush()
        await controller.checkpointer.checkpoint()
        for name in machine.volumes:
            resize(machine, name, LARGE)
        machine.disk.cut_at(operation)
        await controller.reload(machine.config())
        for name in machine.volumes:
            await writing.write(name, LARGE - 4096, b"c" * 4096)
            await writing.write(name, SMALL - 2048, b"d" * 4096)
        await writing.flush()

    async def recovers() -> None:
        await machine.start()
        checks.check_tail(machine, power)
        checks.check_primaries(machine)
        checks.check_secondaries(machine, cuts)
        check_sizes(machine)
        controller = machine.controller
        assert {pair.size for pair in controller.volumes.all()} == {LARGE}
        assert not [each for each in machine.failures if not suspended], machine.failures
        if suspended:  # the cut is where it was, and what it was
            assert {controller.volumes.by_name[name].state for name in names} == {state.SUSPENDED}
            assert all(controller.volumes.by_name[name].usable for name in names)
        writing = Writing(machine)
        for name in machine.volumes:
            await writing.write(name, LARGE - 8192, b"e" * 4096)
        cuts.forget(names)
        await controller.resync(names)
        await controller.resync_wait(names)
        await machine.until(lambda: machine.quiet and _arrived(machine), "rest")
        checks.check_quiet(machine, cuts)
        checks.check_equal(machine)

    with machine.history.tapped():
        try:
            machine.live(dies)
        except Died:
            machine.crash(power)
        else:
            return False
        machine.live(recovers)
    return True


def _arrived(machine: Machine) -> bool:
    controller = machine.controller
    return controller.followers.lag_bytes(controller.volumes.by_name["wal"]) == 0


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("suspended", [False, True], ids=["duplex", "suspended"])
def test_a_grow_killed_at_any_disk_operation_keeps_every_promise(
    power: bool, suspended: bool
) -> None:
    for operation in range(1, OPERATIONS_MAX):
        if not cut_short(operation, power, suspended):
            assert operation > 10, "that was over too soon"
            return
    pytest.fail(f"more than {OPERATIONS_MAX} operations")


def test_an_image_whose_sync_fails_while_it_grows_is_not_trusted() -> None:
    growing.run(121)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_volumes_that_grow_on_random_days(first: int) -> None:
    for seed in range(first, first + CHUNK):
        growing.run(seed)


@pytest.mark.long
@pytest.mark.parametrize("first", range(SEEDS, LONG_SEEDS, LONG_CHUNK))
def test_volumes_that_grow_on_many_days(first: int) -> None:
    for seed in range(first, first + LONG_CHUNK):
        growing.run(seed)
