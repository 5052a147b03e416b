"""What is a hole in a volume, as its primary says; all is data where it does not."""

from __future__ import annotations

import dataclasses
from sys import maxsize
from typing import TYPE_CHECKING

import pytest

from duplexd.engine.allocation import Extents
from duplexd.engine.question_line import QuestionLine
from duplexd.replication.leg_calls import LegCalls
from duplexd.units import MIB
from tests.support.sparse_leg import PAGE, SparseLeg
from tests.unit.engine.parts import SIZE, SMALL, Parts, turns

if TYPE_CHECKING:
    from duplexd.backend import Extent

WHOLE = [(0, SIZE, True)]


class Device(SparseLeg):
    def extents(self, offset: int, length: int, _count_max: int = maxsize) -> list[Extent]:
        raise AssertionError("a device has no holes to find")


class Truncated(SparseLeg):
    def extents(self, offset: int, length: int, _count_max: int = maxsize) -> list[Extent]:
        raise OSError(5, "the file was truncated")


def of_primary(primary: SparseLeg) -> tuple[Parts, Extents]:
    parts = Parts()
    pair = parts.pair()
    pair.set_legs(primary, pair.secondary, "sync")
    return parts, Extents(LegCalls(parts.workers), QuestionLine(3600.0), parts.clock, SMALL)


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


def fragmented() -> SparseLeg:
    leg = SparseLeg(8 * MIB)
    for page in range(0, 8 * MIB // PAGE, 2):
        leg.write(page * PAGE, b"x" * PAGE)
    return leg


@pytest.mark.parametrize(("one", "most"), [(False, 11), (True, 2)])
async def test_an_answer_ends_with_the_count_of_extents(one: bool, most: int) -> None:
    parts, _ = of_primary(fragmented())
    limits = dataclasses.replace(SMALL, extents_max=10)
    extents = Extents(LegCalls(parts.workers), QuestionLine(3600.0), parts.clock, limits)
    found = await asked(parts, extents, 0, 8 * MIB, one)
    assert found[:1] == [(0, PAGE, True)]
    assert len(found) <= most


async def test_the_client_asks_on_from_where_an_answer_ends() -> None:
    primary = fragmented()
    parts, extents = of_primary(primary)
    found: list[Extent] = []
    at = answers = 0
    while at < 8 * MIB:
        found += await asked(parts, extents, at, 8 * MIB - at)
        at = sum(found[-1][:2])
        answers += 1
    assert found == primary.extents(0, 8 * MIB)
    assert answers >= len(found) // (SMALL.extents_max + 64)


async def test_an_answer_ends_with_the_time() -> None:
    parts, _ = of_primary(fragmented())
    limits = dataclasses.replace(SMALL, extents_seconds_max=0.0)
    extents = Extents(LegCalls(parts.workers), QuestionLine(3600.0), parts.clock, limits)
    assert len(await asked(parts, extents, 0, 8 * MIB)) <= 65


async def test_questions_about_all_volumes_are_asked_one_at_a_time() -> None:
    parts, extents = of_primary(fragmented())
    answers: list[list[Extent]] = []
    for name in ("data", "data", "wal", "wal"):
        extents.extents(parts.pair(name), 0, SIZE, False, answers.append)
    for answered in range(4):
        await turns()
        assert len(parts.workers.calls) == 1
        assert len(answers) == answered
        parts.workers.finish_all()
    await turns()
    assert len(answers) == 4
