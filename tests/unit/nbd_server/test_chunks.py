"""Structured and extended replies, over real sockets."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.backend import FLUSH, TRIM, WRITE, ZERO
from duplexd.limits import NbdLimits
from duplexd.nbd import constants as c
from tests.support.nbd_chunks import DATA, ERROR, HOLE, NONE, read_from
from tests.unit.nbd_server.chunk_peer import ChunkPeer, status_payload
from tests.unit.nbd_server.conftest import VOLUME_BYTES
from tests.unit.nbd_server.peer import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.nbd_server.listeners import Listeners
    from tests.unit.nbd_server.memory_backend import MemoryBackend
    from tests.unit.nbd_server.peer import Peer

    Connect = Callable[..., Awaitable[Peer]]
    Chunky = Callable[..., Awaitable[ChunkPeer]]

KIB, MIB = 1 << 10, 1 << 20
ALLOCATION = c.CONTEXT_ALLOCATION
HOLE_STATE = c.STATE_HOLE | c.STATE_ZERO
SIMPLE = -1  # the kind of a simple reply


@pytest.fixture(params=["structured", "extended"])
def extended(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "extended")


@pytest.fixture
def chunky(connect: Connect, extended: bool) -> Chunky:
    """Connects a client that negotiated chunks."""

    async def connect_one(contexts: tuple[str, ...] = (ALLOCATION,)) -> ChunkPeer:
        peer = ChunkPeer(await connect(None), extended)
        await peer.go(list(contexts))
        return peer

    return connect_one


# READ


@pytest.mark.parametrize("length", [1, 4096, 256 * KIB, 300_000, 3 * MIB])
async def test_a_read_is_answered_in_chunks(
    chunky: Chunky, backend: MemoryBackend, length: int
) -> None:
    content = bytes(range(251)) * (length // 251 + 1)
    backend.volumes["data"].data[512 : 512 + length] = content[:length]
    peer = await chunky()
    chunks = await peer.ask(c.CMD_READ, 512, length)
    assert [chunk.kind for chunk in chunks] == [DATA]
    assert read_from(chunks, 512, length) == content[:length]
    assert chunks[0].at == (512 if peer.extended else None)


async def test_reads_after_lost_writes_are_answered_by_workers(
    chunky: Chunky, backend: MemoryBackend, listeners: Listeners
) -> None:
    volume = backend.volumes["data"]
    volume.data[:8192] = bytes(range(256)) * 32
    peer = await chunky()
    volume.lost = True
    for cookie in [await peer.send(c.CMD_READ, 0, 8192) for _ in range(3)]:
        assert read_from(await peer.reply(cookie), 0, 8192) == bytes(range(256)) * 32
    assert listeners.server.traffic["data"].by_operation()["read"] == (3, 3 * 8192)


async def test_more_reads_than_the_reply_buffer_holds(
    chunky: Chunky, backend: MemoryBackend
) -> None:
    backend.volumes["data"].data[: 4 * MIB] = bytes(range(256)) * (4 * MIB // 256)
    peer = await chunky()
    cookies = [await peer.send(c.CMD_READ, index * 60_001, 60_000) for index in range(60)]
    for index, cookie in enumerate(cookies):
        offset = index * 60_001
        expected = bytes(backend.volumes["data"].data[offset : offset + 60_000])
        assert read_from(await peer.reply(cookie), offset, 60_000) == expected


async def test_holes_of_a_long_read_are_not_sent(chunky: Chunky, backend: MemoryBackend) -> None:
    volume = backend.volumes["data"]
    volume.cold, volume.holes = True, [(0, MIB), (2 * MIB, MIB)]
    volume.data[MIB : 2 * MIB] = b"d" * MIB
    peer = await chunky()
    chunks = await peer.ask(c.CMD_READ, 0, 3 * MIB)
    assert [(chunk.kind, chunk.done) for chunk in chunks] == [
        (HOLE, False),
        (DATA, False),
        (HOLE, True),
    ]
    assert read_from(chunks, 0, 3 * MIB) == bytes(MIB) + b"d" * MIB + bytes(MIB)


@pytest.mark.parametrize("holes", [[(0, MIB)], [(0, 3 * MIB)]], ids=["some", "all"])
async def test_df_is_one_content_chunk(
    chunky: Chunky, backend: MemoryBackend, holes: list[tuple[int, int]]
) -> None:
    backend.volumes["data"].cold, backend.volumes["data"].holes = True, holes
    peer = await chunky()
    assert peer.flags & c.FLAG_SEND_DF
    chunks = await peer.ask(c.CMD_READ, 0, 3 * MIB, c.CMD_FLAG_DF)
    assert len(chunks) == 1
    assert read_from(chunks, 0, 3 * MIB) == bytes(3 * MIB)


async def test_a_short_cold_read_does_not_ask_for_holes(
    chunky: Chunky, backend: MemoryBackend
) -> None:
    backend.volumes["data"].cold, backend.volumes["data"].holes = True, [(0, MIB)]
    peer = await chunky()
    (chunk,) = await peer.ask(c.CMD_READ, 0, 4096)
    assert chunk.kind == DATA
    assert backend.sparse_reads == []


@pytest.mark.parametrize("length", [4096, 3 * MIB])
async def test_a_read_that_fails_is_answered_with_an_error_chunk(
    chunky: Chunky, backend: MemoryBackend, length: int
) -> None:
    backend.volumes["data"].error = errno.EIO
    peer = await chunky()
    (chunk,) = await peer.ask(c.CMD_READ, 0, length)
    assert (chunk.done, chunk.kind, chunk.error) == (True, ERROR, c.EIO)


@pytest.mark.parametrize(
    ("offset", "length", "flags", "error"),
    [
        (VOLUME_BYTES, 1, 0, c.EINVAL),
        (0, 1, c.CMD_FLAG_REQ_ONE, c.EINVAL),
        (0, c.PAYLOAD_BYTES_MAX + 1, 0, c.EINVAL),
    ],
)
async def test_a_refused_read_is_answered_with_an_error_chunk(
    chunky: Chunky, offset: int, length: int, flags: int, error: int
) -> None:
    peer = await chunky()
    (chunk,) = await peer.ask(c.CMD_READ, offset, length, flags)
    assert (chunk.done, chunk.kind, chunk.error) == (True, ERROR, error)


async def test_a_read_of_nothing_succeeds(chunky: Chunky) -> None:
    peer = await chunky()
    (chunk,) = await peer.ask(c.CMD_READ, 0, 0)
    assert (chunk.done, chunk.kind) == (True, NONE)


# Other requests


async def test_changes_and_flushes_succeed(
    chunky: Chunky, backend: MemoryBackend, extended: bool
) -> None:
    peer = await chunky()
    replies = [
        await peer.reply(await peer.write(100, b"precious")),
        await peer.ask(c.CMD_FLUSH, 7, 0),
        await peer.ask(c.CMD_TRIM, 4096, 4096, c.CMD_FLAG_FUA),
        await peer.ask(c.CMD_WRITE_ZEROES, 8192, 512, c.CMD_FLAG_NO_HOLE),
        await peer.ask(c.CMD_CACHE, 0, MIB),
    ]
    expected = [100, 7, 4096, 8192, 0] if extended else [None] * 5
    kind = NONE if extended else SIMPLE
    assert [(chunk.kind, chunk.error, chunk.at) for (chunk,) in replies] == [
        (kind, 0, at) for at in expected
    ]
    kinds = [change.kind for batch in backend.batches for change in batch]
    assert kinds == [WRITE, TRIM, ZERO]
    assert FLUSH not in kinds
    assert backend.flushes == 1
    assert bytes(backend.volumes["data"].data[100:108]) == b"precious"


@pytest.mark.parametrize("held", [False, True])
async def test_a_change_that_fails_says_so(
    chunky: Chunky, backend: MemoryBackend, held: bool
) -> None:
    peer = await chunky()
    backend.error, backend.holding = errno.ENOSPC, held
    cookie = await peer.write(0, b"x")
    if held:
        await eventually(lambda: backend.held)
        backend.release()
    (chunk,) = await peer.reply(cookie)
    assert (chunk.done, chunk.error) == (True, c.ENOSPC)


async def test_a_refused_change_says_so(chunky: Chunky, backend: MemoryBackend) -> None:
    peer = await chunky()
    (chunk,) = await peer.reply(await peer.write(VOLUME_BYTES, b"x"))
    assert (chunk.kind, chunk.error) == (ERROR, c.ENOSPC)
    (chunk,) = await peer.reply(await peer.write(0, b"x" * 300_000, c.CMD_FLAG_DF))
    assert (chunk.kind, chunk.error) == (ERROR, c.EINVAL)
    assert backend.batches == []


@pytest.mark.parametrize("extended", ["extended"], indirect=True)
async def test_64_bits_of_length(chunky: Chunky) -> None:
    peer = await chunky()
    (chunk,) = await peer.ask(c.CMD_TRIM, 0, 1 << 50)
    assert chunk.error == c.EINVAL
    (chunk,) = await peer.ask(c.CMD_WRITE_ZEROES, 0, 1 << 50)
    assert chunk.error == c.ENOSPC


@pytest.mark.parametrize("extended", ["extended"], indirect=True)
async def test_a_write_without_payload_flag_is_refused(chunky: Chunky) -> None:
    peer = await chunky()
    (chunk,) = await peer.ask(c.CMD_WRITE, 0, 512)
    assert chunk.error == c.EINVAL


# BLOCK_STATUS


async def test_block_status_shows_the_extents(chunky: Chunky, backend: MemoryBackend) -> None:
    backend.volumes["data"].holes = [(MIB, MIB)]
    peer = await chunky()
    (chunk,) = await peer.ask(c.CMD_BLOCK_STATUS, 0, 3 * MIB)
    assert chunk.done
    assert chunk.statuses == (1, [(MIB, 0), (MIB, HOLE_STATE), (MIB, 0)])
    (chunk,) = await peer.ask(c.CMD_BLOCK_STATUS, MIB + 512, 1024)
    assert chunk.statuses == (1, [(1024, HOLE_STATE)])


async def test_req_one_is_one_extent_within_the_request(
    chunky: Chunky, backend: MemoryBackend
) -> None:
    backend.volumes["data"].holes = [(MIB, MIB)]
    peer = await chunky()
    (chunk,) = await peer.ask(c.CMD_BLOCK_STATUS, 0, 3 * MIB, c.CMD_FLAG_REQ_ONE)
    assert chunk.statuses == (1, [(MIB, 0)])
    (chunk,) = await peer.ask(c.CMD_BLOCK_STATUS, 0, 512, c.CMD_FLAG_REQ_ONE)
    assert chunk.statuses == (1, [(512, 0)])
    assert backend.asked_one == [True, True]


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 0), (VOLUME_BYTES, 1), (VOLUME_BYTES - 1, 2), (1 << 63, 1)]
)
async def test_block_status_of_a_bad_range_is_refused(
    chunky: Chunky, offset: int, length: int
) -> None:
    peer = await chunky()
    (chunk,) = await peer.ask(c.CMD_BLOCK_STATUS, offset, length)
    assert (chunk.kind, chunk.error) == (ERROR, c.EINVAL)


async def test_block_status_without_a_context_is_refused(chunky: Chunky) -> None:
    peer = await chunky(contexts=())
    (chunk,) = await peer.ask(c.CMD_BLOCK_STATUS, 0, 4096)
    assert chunk.error == c.EINVAL


@pytest.mark.parametrize(
    "limits", [NbdLimits(connection_share_bytes=0, request_bytes=0, read_bytes_max=4 * MIB)]
)
async def test_questions_for_extents_are_bounded(
    chunky: Chunky, backend: MemoryBackend, listeners: Listeners
) -> None:
    peer = await chunky()
    backend.volumes["data"].cold = backend.reads_wait = True
    read = await peer.send(c.CMD_READ, 0, 3 * MIB)
    await eventually(lambda: backend.reads)
    cookies = [await peer.send(c.CMD_BLOCK_STATUS, 0, 4096) for _ in range(5)]
    assert await peer.peer.silent()
    assert backend.asked_one == []
    backend.reads_wait = False
    backend.finish_reads()
    for cookie in (read, *cookies):
        assert (await peer.reply(cookie))[-1].done
    assert listeners.server.reading.used == 0


async def test_block_status_is_answered_while_changes_are_held(
    chunky: Chunky, backend: MemoryBackend
) -> None:
    peer = await chunky()
    backend.holding = True
    held = await peer.write(0, b"x")
    (chunk,) = await peer.ask(c.CMD_BLOCK_STATUS, 0, 4096)
    assert chunk.statuses == (1, [(4096, 0)])
    backend.release()
    await peer.reply(held)


@pytest.mark.parametrize("extended", ["extended"], indirect=True)
async def test_block_status_for_chosen_contexts(chunky: Chunky, backend: MemoryBackend) -> None:
    backend.volumes["data"].holes = [(0, MIB)]
    peer = await chunky()
    assert peer.flags & c.FLAG_BLOCK_STATUS_PAYLOAD
    (chunk,) = await peer.ask(c.CMD_BLOCK_STATUS, 0, 0, payload=status_payload(2 * MIB, 1))
    assert chunk.statuses == (1, [(MIB, HOLE_STATE), (MIB, 0)])


@pytest.mark.parametrize("extended", ["extended"], indirect=True)
@pytest.mark.parametrize(
    "payload",
    [
        status_payload(4096),
        status_payload(4096, 2),
        status_payload(4096, 1, 1),
        status_payload(0, 1),
        status_payload(VOLUME_BYTES + 1, 1),
        b"short",
    ],
)
async def test_a_bad_payload_of_block_status_is_refused(chunky: Chunky, payload: bytes) -> None:
    peer = await chunky()
    (chunk,) = await peer.ask(c.CMD_BLOCK_STATUS, 0, 0, payload=payload)
    assert (chunk.kind, chunk.error) == (ERROR, c.EINVAL)


async def test_long_reads_of_a_client_that_has_gone_leave_nothing(
    chunky: Chunky, backend: MemoryBackend, listeners: Listeners
) -> None:
    """Some of them are read, the others have not begun."""
    backend.volumes["data"].cold = backend.reads_wait = True
    peer = await chunky()
    for at in range(8):
        await peer.send(c.CMD_READ, at * 512 * KIB, 512 * KIB)
    await eventually(lambda: listeners.server.reading.used >= 4 * MIB)
    assert len(backend.reads) == NbdLimits().volume_pieces_max
    peer.peer.close()
    await eventually(lambda: backend.gone != [])
    backend.finish_reads()
    await eventually(lambda: listeners.server.reading.used == 0)
