"""The writers keep the order that they promise, and raise the error of a write."""

import asyncio
from itertools import pairwise
from random import Random

import pytest

from duplexd.canary import workload as module
from duplexd.canary.checker import check
from duplexd.canary.record import Placement, parse
from duplexd.canary.workload import Workload
from tests.unit.loops import now

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
    assert record.named_number <= history.acknowledged_before(
        record.named_writer, history.issued_at(1, record.number)
    )


async def test_longest_wait_counts_a_write_still_in_flight() -> None:
    disks = Disks()
    workload = Workload(PLACEMENT, disks.write, clock=now)
    workload.start()
    await asyncio.sleep(0.01)
    assert workload.take_longest_s() < 0.01
    disks.gate.clear()
    await asyncio.sleep(0.06)
    assert 0.06 <= workload.waiting_s < 0.07
    assert 0.06 <= workload.take_longest_s() < 0.07
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


async def test_bursts_come_one_after_the_other_at_the_pace_that_was_asked_for() -> None:
    begun: list[tuple[float, int, int]] = []

    async def write(writer: int, volume: int, _offset: int, _data: bytes) -> None:
        begun.append((now(), writer, volume))
        await asyncio.sleep(0.0005)

    # 200 records a second, 25 ms from burst to burst
    workload = Workload(PLACEMENT, write, pause_s=PLACEMENT.writers / 200, burst=5)
    workload.start()
    await asyncio.sleep(10.0)
    await workload.stop()
    bursts = [begun[at : at + 5] for at in range(0, len(begun) - 4, 5)]
    assert 1900 < len(begun) < 2100
    for burst in bursts:
        assert len({writer for _, writer, _ in burst}) == 1
        first = burst[0][2]
        assert [volume for _, _, volume in burst] == [(first + step) % 4 for step in range(5)], (
            "all volumes, and the first one again"
        )
        assert burst[-1][0] - burst[0][0] < 0.003
    gaps = [later[0][0] - earlier[0][0] for earlier, later in pairwise(bursts)]
    assert 0.018 < min(gaps) < max(gaps) < 0.032
    assert {writer for _, writer, _ in begun} == {0, 1, 2}


async def test_end_does_not_wait_for_the_next_turn() -> None:
    disks = Disks()
    workload = Workload(PLACEMENT, disks.write, pause_s=3600.0)
    workload.start()
    await asyncio.sleep(1.0)
    since = now()
    await workload.stop()
    assert (workload.history.acknowledged, now() - since < 0.1) == (1, True)


async def often_seen(
    volumes: int,
    rate: int,
    split_s: float,
    burst: int,
    monkeypatch: pytest.MonkeyPatch,
    cuts: int = 100,
) -> int:
    """How many of `cuts` are found broken if one volume is cut `split_s` apart from the others.

    A write takes 0.4 ms.
    """
    rng = Random(volumes * rate)
    monkeypatch.setattr(module, "random", rng)
    placement = Placement(writers=4, volumes=volumes, slots=32)
    images = [bytearray(placement.volume_bytes) for _ in range(volumes)]

    async def write(_writer: int, volume: int, offset: int, data: bytes) -> None:
        await asyncio.sleep(0.0002)
        images[volume][offset : offset + len(data)] = data
        await asyncio.sleep(0.0002)

    workload = Workload(placement, write, pause_s=placement.writers / rate, burst=burst)
    workload.start()
    await asyncio.sleep(1.0)
    seen = 0
    for _ in range(cuts):
        await asyncio.sleep(rng.uniform(0.1, 0.2))
        asked, odd, is_early = workload.history.tick(), rng.randrange(volumes), rng.randrange(2)
        first = {
            volume: bytes(images[volume])
            for volume in range(volumes)
            if (volume == odd) == is_early
        }
        await asyncio.sleep(split_s)
        cut = [first.get(volume) or bytes(images[volume]) for volume in range(volumes)]
        findings = check(placement, cut, workload.history, asked, workload.history.tick())
        seen += findings.broken > 0
        assert findings.missing == findings.too_new == findings.torn == 0
    await workload.stop()
    return seen * 100 // cuts


@pytest.mark.parametrize(
    ("volumes", "rate", "split_s", "often"),
    [(2, 200, 0.010, 50), (3, 200, 0.010, 36), (3, 500, 0.003, 24)],
)
async def test_cuts_a_few_milliseconds_apart_show_more_often_in_bursts_than_at_an_even_pace(
    volumes: int, rate: int, split_s: float, often: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/canary.md has such figures, of 200 cuts."""
    in_bursts = await often_seen(volumes, rate, split_s, volumes + 1, monkeypatch)
    evenly = await often_seen(volumes, rate, split_s, 1, monkeypatch)
    assert (in_bursts >= often, evenly < often) == (True, True), (in_bursts, evenly)
    assert await often_seen(volumes, rate, 0.0, volumes + 1, monkeypatch, cuts=10) == 0
