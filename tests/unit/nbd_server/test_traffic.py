"""How long requests took, as it is counted: each that was answered once, in the right operation."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, cast

import pytest
import pytest_asyncio

from duplexd.limits import NbdLimits
from duplexd.nbd import constants as c
from duplexd.nbd.export_flags import export_flags
from duplexd.nbd.negotiated import Negotiated
from duplexd.nbd.transmission import CMD_LONG_WRITE, CMD_PIECE
from duplexd.nbd_server.reach import NO_POLICY
from duplexd.nbd_server.shared import Server
from duplexd.nbd_server.structured import begin
from duplexd.nbd_server.traffic import TIMED
from tests.unit.nbd_server.peer import eventually
from tests.unit.nbd_server.test_dispatch import EXTENDED, STRUCTURED, Written

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from duplexd.nbd.transmission import Request
    from duplexd.nbd_server.sockets import Carrier
    from duplexd.nbd_server.traffic import Traffic
    from tests.unit.nbd_server.memory_backend import MemoryBackend

KIB, MIB = 1 << 10, 1 << 20
PAYLOAD = memoryview(b"x" * 512)


class Wire(Written):
    """One that takes long replies, too."""

    def queue(self, parts: list[bytes | bytearray | memoryview]) -> None:
        self.data += b"".join(parts)


class Timed:
    """One connection without a socket."""

    def __init__(self, backend: MemoryBackend, negotiated: Negotiated) -> None:
        self.backend = backend
        self.server = Server(backend, asyncio.get_running_loop(), NbdLimits(), NO_POLICY)
        volume = backend.volumes["data"]
        given = self.server, volume, cast("Carrier", Wire()), lambda: None
        _, self.dispatch = begin(
            negotiated, *given, export_flags(read_only=False, negotiated=negotiated)
        )
        self.traffic: Traffic = self.server.traffic_of(volume)

    def counted(self) -> dict[str, int]:
        """Requests whose time was counted, by operation."""
        found = self.traffic.seconds_by_operation()
        return {name: sum(seconds.counts) for name, seconds in found.items()}

    def total(self, operation: str) -> float:
        return self.traffic.seconds_by_operation()[operation].total

    def answer_together(self) -> None:
        """What the backend holds, as one batch would."""
        held, self.backend.held = self.backend.held, []
        self.dispatch.finished(held)


@pytest_asyncio.fixture(params=[Negotiated(), STRUCTURED, EXTENDED])
async def timed(request: pytest.FixtureRequest, backend: MemoryBackend) -> AsyncIterator[Timed]:
    timed = Timed(backend, request.param)
    yield timed
    await eventually(lambda: not timed.dispatch.in_flight)
    timed.server.close()


def write(length: int = 512) -> Request:
    return (0, c.CMD_WRITE, 1, 0, length, PAYLOAD[:length])


def read(length: int = 512) -> Request:
    return (0, c.CMD_READ, 2, 0, length, None)


def without_payload(command: int) -> Request:
    return (0, command, 3, 0, 512, None)


async def test_every_request_is_counted_once_in_its_operation(timed: Timed) -> None:
    others, began = [c.CMD_TRIM, c.CMD_FLUSH, c.CMD_WRITE_ZEROES], monotonic()
    requests = [write(), read(), write(), read(), read(), *map(without_payload, others)]
    timed.dispatch.serve(requests)
    timed.dispatch.serve([read()])
    assert timed.counted() == {"read": 4, "write": 2, "flush": 1, "trim": 1, "write_zeroes": 1}
    assert set(timed.counted()) == set(TIMED)
    most = monotonic() - began
    for operation, count in timed.counted().items():
        assert 0 < timed.total(operation) <= count * most


async def test_what_is_refused_is_not_counted(timed: Timed) -> None:
    timed.dispatch.serve([(0, c.CMD_READ, 1, 1 << 40, 512, None), write(), read()])
    assert timed.traffic.refused == 1
    assert timed.counted() == {"read": 1, "write": 1}


@pytest.mark.parametrize("length", [4 * KIB, 300 * KIB, 3 * MIB])
async def test_a_read_that_waits_for_a_worker_is_counted_when_it_is_answered(
    timed: Timed, backend: MemoryBackend, length: int
) -> None:
    timed.dispatch.serve([read()])
    backend.volumes["data"].cold = backend.reads_wait = True
    timed.dispatch.serve([read(length)])
    assert timed.counted() == {"read": 1}
    asked, waited = monotonic(), 0.0
    for _ in range(100):  # the pieces of a long one are read in turns of the loop
        if timed.counted() != {"read": 1}:
            break
        waited = monotonic() - asked
        backend.finish_reads()
        await asyncio.sleep(0)
    assert timed.counted() == {"read": 2}
    assert timed.total("read") >= waited


async def test_a_batch_of_writes_has_waited_since_its_wake_up(
    timed: Timed, backend: MemoryBackend
) -> None:
    backend.holding = True
    timed.dispatch.serve([write()] * 3)
    taken = monotonic()
    await eventually(lambda: len(backend.held) == 3)
    assert timed.counted() == {}
    waited = monotonic() - taken
    timed.answer_together()
    assert timed.counted() == {"write": 3}
    assert timed.total("write") >= 3 * waited


def _of_two_wake_ups(timed: Timed) -> None:
    timed.dispatch.serve([write()])
    timed.dispatch.serve([write()])


def _of_two_kinds(timed: Timed) -> None:
    timed.dispatch.serve([write(), without_payload(c.CMD_TRIM), write()])


@pytest.mark.parametrize(
    ("serve", "counted"),
    [(_of_two_wake_ups, {"write": 2}), (_of_two_kinds, {"write": 2, "trim": 1})],
)
async def test_what_is_answered_together_is_counted_apart(
    timed: Timed,
    backend: MemoryBackend,
    serve: Callable[[Timed], None],
    counted: dict[str, int],
) -> None:
    backend.holding = True
    serve(timed)
    backend.held[0].since -= 1000.0  # it came that long before the last one
    timed.answer_together()
    assert timed.counted() == counted
    assert 1000.0 <= timed.total("write") < 1500.0


async def test_a_write_in_pieces_is_counted_once(timed: Timed) -> None:
    timed.dispatch.payload_bytes += 2 * KIB  # as the receiver reserves it
    timed.dispatch.serve([(0, CMD_LONG_WRITE, 1, 0, 2 * KIB, None)])
    for offset in (0, KIB):
        timed.dispatch.serve([(0, CMD_PIECE, 0, offset, KIB, bytearray(KIB))])
    assert timed.counted() == {"write": 1}
