"""What is a hole in a volume, as its primary says; all is data where it does not."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from duplexd.engine.allocation import Extents
from duplexd.replication.leg_calls import LegCalls
from duplexd.units import KIB, MIB
from tests.support.sparse_leg import PAGE, SparseLeg
from tests.unit.engine.parts import SIZE, SMALL, Parts, turns

if TYPE_CHECKING:
    from duplexd.backend import Extent

WHOLE = [(0, SIZE, True)]


class Device(SparseLeg):
    def extents(self, offset: int, length: int) -> list[Extent]:
        raise AssertionError("a device has no holes to find")


class Truncated(SparseLeg):
    def extents(self, offset: int, length: int) -> list[Extent]:
        raise OSError(5, "the file was truncated")


def of_primary(primary: SparseLeg) -> tuple[Parts, Extents]:
    parts = Parts()
    pair = parts.pair()
    pair.set_legs(primary, pair.secondary, "sync")
    return parts, Extents(LegCalls(parts.workers), parts.clock, SMALL)


async def asked(
    parts: Parts, extents: Extents, offset: int = 0, length: int = SIZE, one: bool = False
) -> list[Extent]:
    answers: list[list[Extent]] = []
    extents.extents(parts.pair(), offset, length, one, answers.append)
    await turns()
    parts.workers.finish_all()
    await turns()
    (found,) = answers
    return found


async def test_the_primary_is_asked() -> None:
    primary = SparseLeg(SIZE)
    primary.write(2 * PAGE, b"x" * PAGE)
    parts, extents = of_primary(primary)
    assert await asked(parts, extents, PAGE, 4 * PAGE) == [
        (PAGE, PAGE, False),
        (2 * PAGE, PAGE, True),
        (3 * PAGE, 2 * PAGE, False),
    ]


async def test_a_block_device_is_all_data() -> None:
    device = Device(SIZE)
    device.is_block = True
    parts, extents = of_primary(device)
    answers: list[list[Extent]] = []
    extents.extents(parts.pair(), 0, SIZE, False, answers.append)
    assert answers == [WHOLE]


async def test_a_primary_that_cannot_say_is_all_data() -> None:
    parts, extents = of_primary(Truncated(SIZE))
    assert await asked(parts, extents) == WHOLE
    assert parts.seen == []


async def test_an_image_that_is_the_primary_no_longer_is_not_believed() -> None:
    parts, extents = of_primary(SparseLeg(SIZE))
    answers: list[list[Extent]] = []
    pair = parts.pair()
    extents.extents(pair, 0, SIZE, False, answers.append)
    await turns()
    pair.set_legs(SparseLeg(SIZE), pair.secondary, "sync")
    parts.workers.finish_all()
    await turns()
    assert answers == [WHOLE]


@pytest.mark.parametrize(("one", "most"), [(False, 256), (True, 256)])
async def test_an_answer_ends_with_the_count_of_extents(one: bool, most: int) -> None:
    primary = SparseLeg(8 * MIB)
    for page in range(0, 8 * MIB // PAGE, 2):
        primary.write(page * PAGE, b"x" * PAGE)
    parts, _ = of_primary(primary)
    limits = dataclasses.replace(SMALL, extents_max=10)
    extents = Extents(LegCalls(parts.workers), parts.clock, limits)
    found = await asked(parts, extents, 0, 8 * MIB, one)
    assert found[:2] == [(0, PAGE, True), (PAGE, PAGE, False)]
    assert len(found) <= most


async def test_an_answer_ends_with_the_time() -> None:
    parts, _ = of_primary(SparseLeg(64 * MIB))
    limits = dataclasses.replace(SMALL, extents_seconds_max=0.0)
    extents = Extents(LegCalls(parts.workers), parts.clock, limits)
    assert await asked(parts, extents, 0, 64 * MIB) == [(0, 1024 * KIB, False)]
