"""A resync and what follows it, crashed at every single disk operation."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from duplexd.core import pair_states as state
from duplexd.engine.timeline import Timeline
from duplexd.replication.follower import Follower, SinkError
from duplexd.replication.job import JOURNAL, MAP, Job
from duplexd.replication.job_runner import Runner
from duplexd.units import KIB
from tests.sim import checks
from tests.sim.checks import Cuts
from tests.sim.machine import Died, Machine
from tests.sim.test_damage import Writing

if TYPE_CHECKING:
    from collections.abc import Iterable

OPERATIONS_MAX = 400


def cut_short(how: str, operation: int, power: bool, variant: int) -> bool:
    """One life that dies at the `operation`-th operation after the resync began, then one that
    recovers. False if the first ended before that.
    """
    machine, cuts, began = Machine(operation + 1000 * variant), Cuts(), list[bool]()
    machine.add_volume("data", 128 * KIB, True, "sync")
    machine.add_volume("wal", 128 * KIB, True, "async")

    async def dies() -> None:
        await machine.start()
        checks.check_primaries(machine)
        writing = Writing(machine)
        for name in ("data", "wal"):
            await writing.write(name, 8192, b"a" * 4096)
        cuts.returned(await machine.controller.suspend(["data", "wal"]))
        for number in range(
            4 if how == MAP else 1
        ):  # the same again and again: the map is shorter than the journal
            await writing.write("data", 8192, bytes([number + 1]) * 4096)
            await writing.write("wal", 16384, bytes([number + 1]) * 4096)
        await writing.flush()
        machine.disk.cut_at(operation)
        cuts.forget(["data", "wal"])
        report = await machine.controller.resync(["data", "wal"])
        assert [volume["how"] for volume in report["volumes"]] == [how, how]
        began.append(True)
        await writing.write("wal", 32768, b"z" * 512)
        await machine.controller.resync_wait(["data", "wal"])
        await writing.write("data", 65536, b"y" * 512)
        await machine.controller.checkpointer.checkpoint()

    async def recovers() -> None:
        await machine.start()
        _check_staging_logs(machine)
        checks.check_tail(machine, power)
        checks.check_primaries(machine)
        checks.check_secondaries(machine, cuts)
        await machine.controller.resync(["data", "wal"])
        await machine.controller.resync_wait(["data", "wal"])
        await machine.until(
            lambda: (
                machine.quiet
                and machine.controller.followers.lag_bytes(
                    machine.controller.volumes.by_name["wal"]
                )
                == 0
            ),
            "rest",
        )
        assert {pair.state for pair in machine.controller.volumes.by_name.values()} == {
            state.DUPLEX
        }
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


def _check_staging_logs(machine: Machine) -> None:
    """Every one that was committed was whole; a start that misses one suspends its secondaries."""
    for pair in machine.controller.volumes.by_name.values():
        assert pair.cut is None or "staging log" not in pair.cut.why, pair.cut.why


def sweep(how: str, power: bool, variants: Iterable[int]) -> None:
    for variant in variants:
        for operation in range(1, OPERATIONS_MAX):
            if not cut_short(how, operation, power, variant):
                assert operation > 10, "that was over too soon"
                break
        else:
            pytest.fail(f"more than {OPERATIONS_MAX} operations")


@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("how", [JOURNAL, MAP])
def test_a_resync_killed_at_any_disk_operation_keeps_every_promise(how: str, power: bool) -> None:
    sweep(how, power, range(4))


def test_a_staging_log_removed_too_early_is_detected() -> None:
    durable, run = Timeline.durable, Runner.run
    running: list[Job] = []

    async def noted(self: Runner, job: Job) -> None:
        running.append(job)
        try:
            await run(self, job)
        finally:
            running.remove(job)

    async def impatient(self: Timeline, sequence: int | None = None) -> None:
        if not any(job.how == MAP and job.whole for job in running):
            await durable(self, sequence)

    with (
        mock.patch.object(Runner, "run", noted),
        mock.patch.object(Timeline, "durable", impatient),
        pytest.raises(AssertionError, match="staging log ends"),
    ):
        sweep(MAP, True, range(30))


def pairs_that_share_a_follower() -> None:
    """One of two `async` pairs fails, the other goes on."""
    machine = Machine(3)
    machine.add_volume("broken", 128 * KIB, True, "async")
    machine.add_volume("sound", 128 * KIB, True, "async")

    async def life() -> None:
        await machine.start()
        writing, controller = Writing(machine), machine.controller
        await writing.write("broken", 0, b"a" * 512)
        await machine.until(
            lambda: controller.secondaries.async_follower.lag_bytes == 0 and machine.quiet, "rest"
        )
        machine.disk.fail(checks.secondary_path("broken"), errno.EIO, operation="write")
        changes = [
            ("broken", b"b" * 512),
            *(("sound", bytes([number]) * 512) for number in range(1, 9)),
        ]
        controller.submit(
            [
                writing.change(name, 1024 * number, data)
                for number, (name, data) in enumerate(changes)
            ]
        )
        await machine.until(
            lambda: controller.secondaries.async_follower.lag_bytes == 0 and machine.quiet, "rest"
        )
        assert controller.volumes.by_name["broken"].state == state.SUSPENDED
        assert controller.volumes.by_name["sound"].state == state.DUPLEX
        checks.check_quiet(machine, Cuts())
        checks.check_equal(machine)

    with machine.history.tapped():
        machine.live(life)


def test_a_failed_pair_of_a_follower_does_not_make_another_miss_changes() -> None:
    pairs_that_share_a_follower()


def test_a_follower_that_skips_records_after_an_error_is_detected() -> None:
    step = Follower.step

    def careless(self: Follower, until: int, size_bytes: int) -> int:
        reader = self._reader
        try:
            return step(self, until, size_bytes)
        except SinkError:
            self._reader = reader
            raise

    with (
        mock.patch.object(Follower, "step", careless),
        pytest.raises(AssertionError, match=r"sound|rest|loop"),
    ):
        pairs_that_share_a_follower()
