"""The writers keep the order that they promise, and tell what they met."""

import asyncio

import pytest

from duplexd.canary.checker import check
from duplexd.canary.record import Placement, parse
from duplexd.canary.workload import Workload

PLACEMENT = Placement(writers=3, volumes=4, slots=2)


class Disks:
    """Volumes in memory that take their time."""

    def __init__(self) -> None:
        self.images = [bytearray(PLACEMENT.volume_bytes) for _ in range(PLACEMENT.volumes)]
        self.gate = asyncio.Event()
        self.gate.set()

    async def write(self, _writer: int, volume: int, offset: int, data: bytes) -> None:
        await self.gate.wait()
        self.images[volume][offset : offset + len(data)] = data
        await asyncio.sleep(0)

    def copy(self) -> list[bytes]:
        return [bytes(image) for image in self.images]


async def test_copy_at_one_moment_is_consistent_and_one_after_the_other_is_not() -> None:
    disks = Disks()
    workload = Workload(PLACEMENT, disks.write)
    workload.start()
    await asyncio.sleep(0.01)
    asked = workload.history.tick()
    good = disks.copy()
    done = workload.history.tick()
    bad = []
    for image in disks.images:
        bad.append(bytes(image))
        await asyncio.sleep(0.01)
    end = workload.history.tick()
    await workload.stop()
    assert check(PLACEMENT, good, workload.history, asked, done).consistent
    assert check(PLACEMENT, bad, workload.history, asked, end).broken > 0


async def test_every_record_names_one_acknowledged_before_it_was_issued() -> None:
    disks = Disks()
    workload = Workload(PLACEMENT, disks.write)
    workload.start()
    await asyncio.sleep(0.01)
    await workload.stop()
    history = workload.history
    volume, offset = PLACEMENT.place(1, history.acknowledged_before(1, history.tick()))
    record = parse(bytes(disks.images[volume][offset : offset + 4096]))
    assert record is not None
    assert record.named_number <= history.acknowledged_before(record.named_writer, history.issued_at(1, record.number))


async def test_longest_wait_counts_a_write_still_in_flight() -> None:
    disks = Disks()
    workload = Workload(PLACEMENT, disks.write)
    workload.start()
    await asyncio.sleep(0.01)
    workload.take_longest_s()
    disks.gate.clear()
    await asyncio.sleep(0.06)
    assert workload.take_longest_s() > 0.05
    disks.gate.set()
    await workload.stop()


async def test_error_of_a_write_is_raised() -> None:
    async def fail(*_: object) -> None:
        raise OSError(5, "no such luck")

    workload = Workload(PLACEMENT, fail)
    workload.start()
    await asyncio.sleep(0.01)
    with pytest.raises(OSError, match="no such luck"):
        workload.check()
    with pytest.raises(OSError, match="no such luck"):
        await workload.stop()
