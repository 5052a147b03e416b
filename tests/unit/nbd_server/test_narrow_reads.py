"""READs for which others have left no room: they go on in pieces, as their client takes them."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, cast

import pytest
import pytest_asyncio

from duplexd.limits import NbdLimits
from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.units import KIB, MIB
from tests.unit.nbd_server.chunk_peer import ChunkPeer
from tests.unit.nbd_server.conftest import VOLUME_BYTES
from tests.unit.nbd_server.memory_backend import MemoryBackend
from tests.unit.nbd_server.peer import Peer, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from duplexd.backend import Volume
    from duplexd.nbd_server.listeners import Listeners
    from duplexd.nbd_server.nbd_connection import Connection

    Connect = Callable[..., Awaitable[Peer]]

LENGTH = 13 * MIB + 1000  # more than the buffers of a socket have
PATTERN = bytes(range(251))


@pytest.fixture
def limits() -> NbdLimits:
    return NbdLimits(read_bytes_max=MIB, request_bytes=0)


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend({"data": VOLUME_BYTES, "wal": 16 * MIB})


@pytest_asyncio.fixture
async def full(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> AsyncIterator[Peer]:
    """A client whose READ of 8 MiB takes all the room while reads of cold volumes wait. The others
    read from "wal".
    """
    backend.volumes["wal"].data[:LENGTH] = (PATTERN * (LENGTH // len(PATTERN) + 1))[:LENGTH]
    backend.volumes["data"].cold = backend.reads_wait = True
    peer = await connect()
    peer.nbd.read(0, 8 * MIB)
    await peer.send()
    await eventually(lambda: listeners.server.reading.full)
    yield peer
    backend.reads_wait = False
    backend.finish_reads()


def content(offset: int, length: int) -> bytes:
    start = offset % len(PATTERN)
    return (PATTERN * (length // len(PATTERN) + 2))[start : start + length]


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("length", [64 * KIB + 1, 257 * KIB, LENGTH])
async def test_a_read_goes_on_while_others_do_not_take_their_replies(
    connect: Connect, length: int
) -> None:
    peer = await connect("wal")
    for offset in (0, 4096):
        length = min(length, LENGTH - offset)
        assert (await peer.reply(peer.nbd.read(offset, length))).data == content(offset, length)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("flags", [0, c.CMD_FLAG_DF])
async def test_its_reply_in_chunks_is_one_chunk(
    connect: Connect, extended: bool, flags: int
) -> None:
    peer = ChunkPeer(await connect(None), extended)
    await peer.go([], "wal")
    (chunk,) = await peer.ask(c.CMD_READ, 100, MIB + 1, flags)
    assert (chunk.content, chunk.done) == ((100, content(100, MIB + 1)), True)


@pytest.mark.usefixtures("full")
async def test_no_other_reply_comes_in_the_middle(connect: Connect, backend: MemoryBackend) -> None:
    """What came before is answered before it, also if that has to be waited for, and what comes
    behind it waits.
    """
    peer, nbd = await connect("wal"), []
    backend.holding = True
    nbd = [peer.nbd.write(14 * MIB, b"before"), peer.nbd.read(0, LENGTH)]
    nbd += [peer.nbd.flush(), peer.nbd.write(15 * MIB, b"behind"), peer.nbd.read(0, 4096)]
    await peer.send()
    await eventually(lambda: backend.held)
    assert await peer.silent()
    backend.release()
    replies = await peer.replies(5)
    assert list(replies)[:2] == nbd[:2]
    assert [replies[cookie].error for cookie in nbd] == [0] * 5
    assert replies[nbd[1]].data == content(0, LENGTH)
    assert replies[nbd[4]].data == content(0, 4096)


def reader_of_wal(listeners: Listeners) -> Connection:
    connections = cast("set[Connection]", listeners.server.connections)
    return next(each for each in connections if each.volume and each.volume.name == "wal")


async def taken_slowly(connect: Connect, listeners: Listeners) -> Peer:
    """A client that has asked for much and takes nothing."""
    peer = await connect("wal")
    peer.nbd.read(0, LENGTH)
    peer.nbd.write(15 * MIB, b"behind")
    await peer.send()
    before = listeners.server.reading.used
    await eventually(lambda: listeners.server.reading.used > before)
    await asyncio.sleep(0.05)
    return peer


async def test_a_client_that_does_not_take_it_holds_one_piece(
    connect: Connect, listeners: Listeners, full: Peer, backend: MemoryBackend
) -> None:
    used = listeners.server.reading.used
    await taken_slowly(connect, listeners)
    assert used < listeners.server.reading.used <= used + 64 * KIB
    connection = reader_of_wal(listeners)
    assert connection._wire.unsent_bytes <= 64 * KIB


async def test_when_there_is_room_again_the_rest_is_read_as_a_whole(
    connect: Connect,
    listeners: Listeners,
    full: Peer,
    backend: MemoryBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peer, lengths, read = await taken_slowly(connect, listeners), list[int](), backend.read

    def noted(
        volume: Volume, offset: int, length: int, room: int, done: Callable[[int, bytearray], None]
    ) -> None:
        lengths.append(length)
        read(volume, offset, length, room, done)

    monkeypatch.setattr(backend, "read", noted)
    full.close()
    backend.reads_wait, backend.volumes["wal"].cold = False, True
    backend.finish_reads()
    await eventually(lambda: not listeners.server.reading.full)
    replies = await peer.replies(2)
    assert [len(reply.data) for reply in replies.values()] == [LENGTH, 0]
    assert 64 * KIB < max(lengths) <= MIB


@pytest.mark.parametrize("gone", ["closed", "aborted", "stopped"])
async def test_nothing_is_left_of_it_when_its_client_goes(
    connect: Connect, listeners: Listeners, full: Peer, backend: MemoryBackend, gone: str
) -> None:
    used = listeners.server.reading.used
    peer = await taken_slowly(connect, listeners)
    connection = reader_of_wal(listeners)
    if gone == "closed":
        peer.close()
    elif gone == "aborted":
        connection.abort()
    else:
        connection.stop()
        assert len((await peer.replies(1)).popitem()[1].data) == LENGTH
        assert await peer.closed()
    await eventually(lambda: not backend.volumes["wal"].connections)
    assert listeners.server.reading.used == used


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("error", [0, errno.EIO], ids=["well", "in the middle of it"])
async def test_after_disc_what_is_behind_it_is_done_although_its_client_has_gone(
    connect: Connect, listeners: Listeners, backend: MemoryBackend, error: int
) -> None:
    peer = await taken_slowly(connect, listeners)
    peer.nbd.write(15 * MIB + 6, b"last")
    peer.nbd.disconnect()
    await peer.send()
    backend.volumes["wal"].error, backend.reads_wait = error, False
    peer.close()
    await eventually(lambda: not backend.volumes["wal"].connections)
    assert bytes(backend.volumes["wal"].data[15 * MIB : 15 * MIB + 10]) == b"behindlast"


@pytest.mark.usefixtures("full")
async def test_an_error_at_its_beginning_is_its_answer(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect("wal")
    backend.volumes["wal"].error, backend.reads_wait = errno.EIO, False
    assert (await peer.reply(peer.nbd.read(0, LENGTH))).error == errno.EIO
    backend.volumes["wal"].error = 0
    assert (await peer.reply(peer.nbd.read(0, LENGTH))).data == content(0, LENGTH)


async def test_an_error_in_its_middle_closes_the_connection(
    connect: Connect, listeners: Listeners, full: Peer, backend: MemoryBackend
) -> None:
    peer = await taken_slowly(connect, listeners)
    backend.volumes["wal"].error, backend.reads_wait = errno.EIO, False
    taken = 0
    while data := await peer.receive():
        taken += len(data)
    assert 64 * KIB <= taken < LENGTH
    await eventually(lambda: not backend.volumes["wal"].connections)


@pytest.mark.usefixtures("full")
async def test_a_read_past_the_end_is_refused_at_once(connect: Connect) -> None:
    peer = await connect("wal")
    await peer.send(m.request(0, c.CMD_READ, 1, 16 * MIB, LENGTH))
    assert (await peer.receive())[4:8] == m.U32.pack(c.EINVAL)


@pytest.mark.usefixtures("full")
async def test_cache_and_block_status_need_little_room(
    connect: Connect, backend: MemoryBackend
) -> None:
    backend.reads_wait = False
    peer = ChunkPeer(await connect(None), extended=False)
    await peer.go(["base:allocation"], "wal")
    (chunk,) = await peer.ask(c.CMD_BLOCK_STATUS, 0, 16 * MIB)
    assert chunk.statuses == (1, [(16 * MIB, 0)])
    cookie = await peer.send(c.CMD_CACHE, 0, MIB)
    data = await peer.peer.receive()
    assert (data[4:8], data[8:16]) == (bytes(4), cookie.to_bytes(8))
    assert backend.sparse_reads == [(at, 64 * KIB) for at in range(0, MIB, 64 * KIB)]
