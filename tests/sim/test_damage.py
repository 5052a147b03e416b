"""Damage: flipped bits where the journal was known to be durable are reported with file and place,
and never taken for a torn tail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.backend import FLUSH, WRITE, Change
from duplexd.core import pair_states as state
from duplexd.errors import DamageError
from duplexd.journal import checkpoint_file as checkpoint
from duplexd.units import KIB
from tests.sim import checks
from tests.sim.checks import Cuts
from tests.sim.machine import Died, Machine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

SEGMENT = "/state/journal/0000.seg"
CHECKPOINT = "/state/checkpoint"


class Writing:
    """A client that writes and counts its answers."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.answers = 0

    def finished(self, changes: Sequence[Change]) -> None:
        assert all(change.error == 0 for change in changes)
        self.answers += len(changes)

    def change(self, name: str, offset: int, data: bytes) -> Change:
        return Change(
            self, 0, self._machine.controller.volumes.by_name[name], WRITE, offset, len(data), data
        )

    async def write(self, name: str, offset: int, data: bytes) -> None:
        await self._ask(self.change(name, offset, data))

    async def flush(self) -> None:
        await self._ask(
            Change(
                self, 0, next(iter(self._machine.controller.volumes.by_name.values())), FLUSH, 0, 0
            )
        )

    async def _ask(self, change: Change) -> None:
        before, controller = self.answers, self._machine.controller
        if change.kind == FLUSH:
            controller.flush(change)
        else:
            controller.submit([change])
        await self._machine.until(lambda: self.answers > before, "an answer")


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine(seed=1)
    machine.add_volume("data", 256 * KIB, True, "sync")
    machine.add_volume("wal", 256 * KIB, True, "sync")
    with machine.history.tapped():
        yield machine


def kill_after(machine: Machine, life: Callable[[Writing], Awaitable[None]], power: bool) -> None:
    """Start, live, die."""

    async def whole() -> None:
        await machine.start()
        await life(Writing(machine))
        machine.disk.die()

    with pytest.raises(Died):
        machine.live(whole)
    machine.crash(power)


def stop_after(machine: Machine, life: Callable[[Writing], Awaitable[None]]) -> None:
    """Start, live, stop cleanly."""

    async def whole() -> None:
        await machine.start()
        await life(Writing(machine))
        await machine.controller.stop()

    machine.live(whole)
    machine.crash(power=False)


def start_again(machine: Machine) -> None:
    machine.live(machine.start)


async def some_changes(writing: Writing) -> None:
    for number in range(8):
        await writing.write("data", 4096 * number, bytes([number + 1]) * 4096)
        await writing.flush()


def replay_begins(machine: Machine) -> int:
    """The offset in its segment at which replay from the checkpoint begins."""
    saved = checkpoint.unpack(machine.disk.read_file(CHECKPOINT), CHECKPOINT)
    assert saved["index"] == 1
    return int(saved["offset"])


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("place", [0, 10, 72, 2000, 3 * 4168 + 5, 6 * 4168 + 300])
def test_a_damaged_record_before_the_last_stops_the_start(
    machine: Machine, place: int, power: bool
) -> None:
    kill_after(machine, some_changes, power)
    begins = replay_begins(machine)
    machine.disk.flip(SEGMENT, begins + place)
    with pytest.raises(
        DamageError, match=rf"{SEGMENT}: byte \d+: record \d+ is missing or damaged"
    ) as raised:
        start_again(machine)
    byte = int(str(raised.value).split("byte ")[1].split(":")[0])
    assert byte <= begins + place < byte + 5000, (
        "the place that is named is that of the damaged record"
    )


@pytest.mark.parametrize("place", [0, 9, 40, -1])
def test_a_damaged_checkpoint_stops_the_start(machine: Machine, place: int) -> None:
    kill_after(machine, some_changes, power=False)
    machine.disk.flip(CHECKPOINT, place % machine.disk.size(CHECKPOINT))
    with pytest.raises(DamageError, match=f"{CHECKPOINT}: the checkpoint is damaged"):
        start_again(machine)


@pytest.mark.parametrize("place", [0, 8, 13, 20, 35, 47])
def test_a_damaged_segment_header_stops_the_start(machine: Machine, place: int) -> None:
    kill_after(machine, some_changes, power=False)
    machine.disk.flip(SEGMENT, place)
    with pytest.raises(DamageError, match=f"{SEGMENT}: "):
        start_again(machine)


def test_a_damaged_segment_that_only_a_suspended_pair_needs_is_replaced_by_the_map(
    machine: Machine,
) -> None:
    """The change map covers the same changes, so the resync goes by map."""

    async def suspended(writing: Writing) -> None:
        await machine.controller.suspend(["data"])
        for number in range(3):
            await writing.write("data", 40_000 * number, bytes([number + 1]) * 12_000)
        for number in range(6):
            await writing.write("wal", 4096 * number, bytes(8192))
        await machine.controller.checkpointer.checkpoint()

    async def resynced() -> None:
        await machine.start()
        checks.check_primaries(machine)
        writing, pair = Writing(machine), machine.controller.volumes.by_name["data"]
        report = await machine.controller.resync(["data"])
        assert report["volumes"][0]["how"] == "journal"
        await writing.write("data", 100_000, b"x" * 512)
        await machine.controller.resync_wait(["data"])
        assert pair.state == state.DUPLEX
        checks.check_quiet(machine, Cuts())
        checks.check_equal(machine)
        await machine.controller.stop()

    stop_after(machine, suspended)  # after an unclean stop it would go by map in any case
    at = machine.disk.read_file(SEGMENT).index(bytes([2]) * 512)
    machine.disk.flip(SEGMENT, at)
    machine.live(resynced)


def test_a_torn_tail_is_kept_aside(machine: Machine) -> None:
    kill_after(machine, some_changes, power=False)
    content = machine.disk.read_file(SEGMENT)
    last = content.rindex(b"DXR1")
    machine.disk.flip(SEGMENT, last + 100)
    start_again(machine)
    kept = [name for name in machine.disk.list("/state/journal") if name.endswith(".torn")]
    assert len(kept) == 1
    expected = bytearray(content[last : last + 200])
    expected[100] ^= 0x10
    assert machine.disk.read_file(f"/state/journal/{kept[0]}")[:200] == expected
