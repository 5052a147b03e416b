"""Reads in a worker: from the primary, and from a current secondary where that cannot be read."""

from __future__ import annotations

import errno
from sys import maxsize
from typing import TYPE_CHECKING

import pytest

from duplexd.core.markers import MakeCut
from duplexd.engine.reads import Reads
from duplexd.replication.leg_calls import LegCalls
from tests.support.memory_leg import MemoryLeg
from tests.unit.engine.cores import running
from tests.unit.engine.parts import Parts

if TYPE_CHECKING:
    from duplexd.backend import Extent
    from tests.support.fault_leg import Operation

DATA = bytes(range(256)) * 16


def read(parts: Parts, reads: Reads) -> tuple[int, bytes]:
    """The errno and the content of a read of 4 KiB at 4096."""
    answers: list[tuple[int, bytes]] = []
    reads.read(parts.pair(), 4096, len(DATA), 16, lambda *answer: answers.append(answer))
    assert answers == [], "a worker does it"
    parts.workers.finish_all()
    ((number, content),) = answers
    assert number or content[:16] == bytes(16), "room for a header"
    return number, bytes(content[16:])


async def written() -> tuple[Parts, Reads]:
    parts = Parts()
    parts.send("data", 4096, DATA)
    return parts, Reads(LegCalls(parts.workers), parts.events)


async def test_a_read_comes_from_the_primary() -> None:
    parts, reads = await written()
    parts.legs["data"][1].fail("read_into")
    assert read(parts, reads) == (0, DATA)
    assert parts.seen == []


async def test_a_primary_that_cannot_be_read_is_replaced_by_the_secondary_and_reported_once() -> (
    None
):
    """A client may read it thousands of times a second."""
    parts, reads = await written()
    parts.legs["data"][0].fail("read_into")
    assert read(parts, reads) == (0, DATA)
    assert read(parts, reads) == (0, DATA)
    (event,) = parts.named("primary-error")
    assert (event["volume"], event["path"]) == ("data", "/a/data.img")


async def test_a_primary_is_tried_twice() -> None:
    """A path of it may have been lost, and another one taken its place."""
    parts, reads = await written()
    parts.legs["data"][0].fail("read_into", times=1)
    parts.legs["data"][1].fail("read_into")
    assert read(parts, reads) == (0, DATA)
    assert parts.seen == []


async def test_a_secondary_that_lacks_changes_is_not_read() -> None:
    parts, reads = await written()
    parts.timeline.append(MakeCut("00", "", [1]))
    parts.legs["data"][0].fail("read_into", errno.EREMOTEIO)
    assert read(parts, reads)[0] == errno.EREMOTEIO


async def test_an_async_secondary_may_trail_and_is_not_read() -> None:
    parts, reads = await written()
    pair = parts.pair()
    pair.set_legs(pair.primary, pair.secondary, "async")
    parts.legs["data"][0].fail("read_into", errno.EREMOTEIO)
    assert read(parts, reads)[0] == errno.EREMOTEIO


async def test_a_secondary_that_is_suspended_during_the_read_does_not_answer() -> None:
    parts, reads = await written()

    def suspend(operation: Operation) -> None:
        if operation == "read_into":
            parts.timeline.append(MakeCut("00", "", [1]))

    parts.legs["data"][0].fail("read_into", errno.EREMOTEIO)
    parts.legs["data"][1].delay = suspend
    assert read(parts, reads)[0] == errno.EREMOTEIO


@pytest.mark.parametrize("readable", [True, False])
async def test_a_read_during_which_the_images_change_roles_comes_from_the_new_primary(
    readable: bool,
) -> None:
    parts, reads = await written()
    answers: list[tuple[int, bytes]] = []
    reads.read(parts.pair(), 4096, len(DATA), 0, lambda *answer: answers.append(answer))
    if not readable:
        parts.legs["data"][0].fail("read_into")
    parts.failures.primary_failed(parts.pair(), OSError(errno.EIO, "a write failed"))
    parts.workers.finish_all()
    ((number, content),) = answers
    assert (number, bytes(content)) == (0, DATA)


async def test_the_error_is_the_primarys_if_neither_can_be_read() -> None:
    parts, reads = await written()
    parts.legs["data"][0].fail("read_into", errno.EREMOTEIO)
    parts.legs["data"][1].fail("read_into", errno.EIO)
    assert read(parts, reads)[0] == errno.EREMOTEIO


@pytest.mark.parametrize("suspend", [False, True])
async def test_a_controller_reads_from_a_secondary_only_while_it_is_current(suspend: bool) -> None:
    async with running() as core:
        assert await core.write("data", 4096, DATA) == 0
        if suspend:
            await core.controller.suspend(["data"])
        core.faulty()[0].fail("read_into", errno.EREMOTEIO)
        read = await core.read("data", 4096, len(DATA))
        assert read == ((errno.EREMOTEIO, b"") if suspend else (0, DATA))


# Sparse reads


class Listed(MemoryLeg):
    """A leg that says of 4 KiB at 4096 that it is a hole."""

    def extents(self, offset: int, length: int, _count_max: int = maxsize) -> list[Extent]:
        return [(offset, 4096, False), (offset + 4096, length - 4096, True)]


async def test_a_sparse_read_leaves_holes_out_and_says_where_they_are() -> None:
    parts, reads = await written()
    parts.send("data", 8192, DATA)
    leg = Listed(parts.pair().size)
    leg.write(4096, b"not read" * 512)
    leg.write(8192, DATA)
    parts.pair().set_legs(leg, parts.pair().secondary, "sync")
    answers: list[tuple[int, bytearray, list[Extent]]] = []
    reads.read_sparse(parts.pair(), 4096, 8192, 16, lambda *answer: answers.append(answer))
    parts.workers.finish_all()
    assert answers == [
        (0, bytearray(16 + 4096) + DATA, [(4096, 4096, False), (8192, 4096, True)]),
    ]


async def test_a_sparse_read_of_a_leg_that_lists_no_extents_reads_all() -> None:
    parts, reads = await written()
    parts.legs["data"][0].fail("extents")
    answers: list[tuple[int, bytearray, list[Extent]]] = []
    reads.read_sparse(parts.pair(), 4096, len(DATA), 0, lambda *answer: answers.append(answer))
    parts.workers.finish_all()
    assert answers == [(0, bytearray(DATA), [(4096, len(DATA), True)])]
    assert parts.seen == []


async def test_a_sparse_read_comes_from_the_secondary_where_the_primary_cannot_be_read() -> None:
    parts, reads = await written()
    parts.legs["data"][0].fail("read_into")
    answers: list[tuple[int, bytearray, list[Extent]]] = []
    reads.read_sparse(parts.pair(), 4096, len(DATA), 0, lambda *answer: answers.append(answer))
    parts.workers.finish_all()
    ((number, content, _extents),) = answers
    assert (number, bytes(content)) == (0, DATA)
