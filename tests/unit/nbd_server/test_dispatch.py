"""One connection's requests without a socket: what its export and its client's choice change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from duplexd.limits import NbdLimits
from duplexd.nbd import constants as c
from duplexd.nbd.export_flags import export_flags
from duplexd.nbd.negotiated import Negotiated
from duplexd.nbd_server.reach import NO_POLICY
from duplexd.nbd_server.shared import Server
from duplexd.nbd_server.structured import begin
from tests.support.nbd_chunks import Chunk, ChunkReader
from tests.unit.nbd_server.peer import eventually

if TYPE_CHECKING:
    from duplexd.nbd_server.sockets import Wire
    from tests.unit.nbd_server.memory_backend import MemoryBackend

CONTEXTS = ((1, c.CONTEXT_ALLOCATION), (2, "test:unknown"))
STRUCTURED = Negotiated(structured=True, contexts=CONTEXTS)
EXTENDED = Negotiated(structured=True, extended=True, contexts=CONTEXTS)
ALL = [Negotiated(), STRUCTURED, EXTENDED]
CHUNKED = [STRUCTURED, EXTENDED]


class Written:
    """A wire that keeps what is written to it."""

    takes_pipes = False
    unsent_bytes = 0

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes | bytearray | memoryview) -> bool:
        self.data += bytes(data)
        return True


async def served(
    backend: MemoryBackend,
    negotiated: Negotiated,
    *requests: tuple[int, int, int, int, int, memoryview | None],
    read_only: bool = False,
) -> list[Chunk]:
    """The chunks of the replies to these requests, of a READ only if `negotiated`."""
    wire, volume = Written(), backend.volumes["data"]
    server = Server(backend, asyncio.get_running_loop(), NbdLimits(), NO_POLICY)
    flags = export_flags(read_only=read_only, negotiated=negotiated)
    _, dispatch = begin(negotiated, server, volume, cast("Wire", wire), lambda: None, flags)
    dispatch.serve(list(requests))
    await eventually(lambda: not dispatch.in_flight)
    server.close()
    return ChunkReader().feed(wire.data)


def payload(data: bytes) -> memoryview:
    return memoryview(data)


@pytest.mark.parametrize("negotiated", ALL)
async def test_every_change_of_a_read_only_export_is_refused(
    backend: MemoryBackend, negotiated: Negotiated
) -> None:
    chunks = await served(
        backend,
        negotiated,
        (0, c.CMD_WRITE, 1, 0, 4, payload(b"nope")),
        (0, c.CMD_TRIM, 2, 0, 4, None),
        (0, c.CMD_WRITE_ZEROES, 3, 0, 4, None),
        read_only=True,
    )
    assert [(chunk.cookie, chunk.error) for chunk in chunks] == [
        (cookie, c.EPERM) for cookie in (1, 2, 3)
    ]
    assert backend.batches == []


@pytest.mark.parametrize("negotiated", CHUNKED)
async def test_a_read_only_export_is_read(backend: MemoryBackend, negotiated: Negotiated) -> None:
    chunks = await served(
        backend,
        negotiated,
        (0, c.CMD_READ, 1, 0, 4, None),
        (0, c.CMD_FLUSH, 2, 0, 0, None),
        read_only=True,
    )
    assert [(chunk.cookie, chunk.error) for chunk in chunks] == [(1, 0), (2, 0)]


@pytest.mark.parametrize("negotiated", CHUNKED)
async def test_of_a_context_that_means_nothing_here_all_is_0(
    backend: MemoryBackend, negotiated: Negotiated
) -> None:
    backend.volumes["data"].holes = [(0, 4096)]
    chunks = await served(backend, negotiated, (0, c.CMD_BLOCK_STATUS, 1, 0, 8192, None))
    assert [(chunk.done, chunk.statuses) for chunk in chunks] == [
        (False, (1, [(4096, c.STATE_HOLE | c.STATE_ZERO), (4096, 0)])),
        (True, (2, [(8192, 0)])),
    ]


async def test_a_client_without_structured_replies_has_no_block_status(
    backend: MemoryBackend,
) -> None:
    (chunk,) = await served(backend, Negotiated(), (0, c.CMD_BLOCK_STATUS, 1, 0, 8192, None))
    assert chunk.error == c.EINVAL


@pytest.mark.parametrize(
    ("flags", "fast", "error"),
    [
        (0, True, 0),
        (0, False, c.EOVERFLOW),
        (c.CMD_FLAG_NO_HOLE, True, c.EOVERFLOW),
        (c.CMD_FLAG_FAST_ZERO, False, c.ENOTSUP),
    ],
)
async def test_zeroes_of_64_bits_of_length_are_not_written(
    backend: MemoryBackend, flags: int, fast: bool, error: int
) -> None:
    volume = backend.volumes["data"]
    volume.size, volume.can_zero_fast = 1 << 50, fast
    backend.holding = True
    wire = Written()
    server = Server(backend, asyncio.get_running_loop(), NbdLimits(), NO_POLICY)
    offered = export_flags(read_only=False, negotiated=EXTENDED)
    _, dispatch = begin(EXTENDED, server, volume, cast("Wire", wire), lambda: None, offered)
    dispatch.serve([(flags, c.CMD_WRITE_ZEROES, 1, 0, 1 << 40, None)])
    server.close()
    assert [chunk.error for chunk in ChunkReader().feed(wire.data)] == ([error] if error else [])
    assert len(backend.held) == (0 if error else 1)


@pytest.mark.parametrize("negotiated", ALL)
async def test_what_one_turn_of_the_loop_does_of_a_wake_up_is_bounded(
    backend: MemoryBackend, negotiated: Negotiated
) -> None:
    """Others have their turns in between, and the rest keeps its order."""
    wire, limits = Written(), NbdLimits(turn_requests_max=10)
    server = Server(backend, asyncio.get_running_loop(), limits, NO_POLICY)
    asked: list[int] = []
    _, dispatch = begin(
        negotiated,
        server,
        backend.volumes["data"],
        cast("Wire", wire),
        lambda: asked.append(len(dispatch.backlog)),
        export_flags(read_only=False, negotiated=negotiated),
    )
    requests = [(0, c.CMD_TRIM, number, 0, 512, None) for number in range(25)]
    dispatch.serve([*requests])
    assert (dispatch.backlog, len(asked)) == (requests[10:], 1)
    dispatch.serve(dispatch.backlog)
    dispatch.serve(dispatch.backlog)
    assert (dispatch.backlog, len(asked)) == ([], 2)
    server.close()


@pytest.mark.parametrize("negotiated", ALL)
async def test_reads_from_memory_fill_one_reply_buffer_in_a_turn(
    backend: MemoryBackend, negotiated: Negotiated
) -> None:
    wire, limits = Written(), NbdLimits(turn_requests_max=256)
    server = Server(backend, asyncio.get_running_loop(), limits, NO_POLICY)
    asked: list[int] = []
    _, dispatch = begin(
        negotiated,
        server,
        backend.volumes["data"],
        cast("Wire", wire),
        lambda: asked.append(1),
        export_flags(read_only=False, negotiated=negotiated),
    )
    dispatch.serve([(0, c.CMD_READ, number, 0, 4096, None) for number in range(200)])
    assert limits.reply_buffer_bytes - 8192 < len(wire.data) <= limits.reply_buffer_bytes
    assert (len(dispatch.backlog) > 50, asked) == (True, [1])
    server.close()


@pytest.mark.parametrize("negotiated", ALL)
async def test_a_connection_serves_what_its_volume_has_gained_and_nothing_beyond(
    backend: MemoryBackend, negotiated: Negotiated
) -> None:
    wire, volume = Written(), backend.volumes["data"]
    server = Server(backend, asyncio.get_running_loop(), NbdLimits(), NO_POLICY)
    flags = export_flags(read_only=False, negotiated=negotiated)
    _, dispatch = begin(negotiated, server, volume, cast("Wire", wire), lambda: None, flags)
    before = volume.size
    write = (0, c.CMD_WRITE, 1, before, 512, payload(b"x" * 512))
    dispatch.serve([write])
    volume.size = 2 * before
    grown = memoryview(bytearray(volume.data) + bytes(before))
    volume.data = grown
    dispatch.serve([(0, c.CMD_WRITE, 2, before, 512, payload(b"x" * 512))])
    dispatch.serve([(0, c.CMD_WRITE, 3, volume.size, 512, payload(b"x" * 512))])
    await eventually(lambda: not dispatch.in_flight)
    server.close()
    errors = [chunk.error for chunk in ChunkReader().feed(wire.data)]
    assert (bool(errors[0]), errors[1], bool(errors[2])) == (True, 0, True)
    assert bytes(volume.data[before : before + 512]) == b"x" * 512
