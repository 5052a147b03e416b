"""What requests do, over real sockets."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.backend import FLUSH, TRIM, WRITE, ZERO
from duplexd.limits import NbdLimits
from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from tests.unit.nbd_server.peer import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.nbd_server.listeners import Listeners
    from tests.unit.nbd_server.memory_backend import MemoryBackend
    from tests.unit.nbd_server.peer import Peer

    Connect = Callable[..., Awaitable[Peer]]


async def test_changes_of_one_wake_up_are_one_batch_in_order(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    expected = []
    for index in range(50):
        peer.nbd.write(index * 512, bytes([index]) * 512)
        expected.append((WRITE, index * 512, 512))
    peer.nbd.write_zeroes(0, 4096)
    peer.nbd.trim(4096, 4096)
    replies = await peer.replies(52)
    assert {reply.error for reply in replies.values()} == {0}
    changes = [
        (change.kind, change.offset, change.length) for batch in backend.batches for change in batch
    ]
    assert changes == [*expected, (ZERO, 0, 4096), (TRIM, 4096, 4096)]
    # what one send carries may arrive in a few pieces, never one by one
    assert len(backend.batches) <= 3
    assert backend.volumes["data"].data[8192:8704] == bytes([16]) * 512


async def test_requests_behind_go_are_served(connect: Connect) -> None:
    peer = await connect(None)
    await peer.receive()
    go = m.CLIENT_FLAGS.pack(3) + m.option(c.OPT_GO, m.go_data("data", []))
    await peer.send(go + m.request(0, c.CMD_READ, 7, 0, 4))
    answer = b""
    while not answer.endswith(m.simple_reply(0, 7) + bytes(4)):
        answer += await peer.receive()


async def test_flags_become_fields_of_the_change(connect: Connect, backend: MemoryBackend) -> None:
    peer = await connect()
    peer.nbd.write(0, b"x", fua=True)
    peer.nbd.write(1, b"x")
    peer.nbd.write_zeroes(2, 1, fua=True, no_hole=True)
    peer.nbd.write_zeroes(3, 1)
    peer.nbd.trim(4, 1, fua=True)
    await peer.replies(5)
    changes = [change for batch in backend.batches for change in batch]
    assert [(change.fua, change.allocate) for change in changes] == [
        (True, False),
        (False, False),
        (True, True),
        (False, False),
        (True, False),
    ]


async def test_flush_comes_after_the_changes_before_it(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    peer.nbd.write(0, b"x")
    cookie = peer.nbd.flush()
    peer.nbd.write(1, b"y")
    assert (await peer.replies(3))[cookie].error == 0
    assert backend.flushes == 1
    assert len(backend.batches) >= 2
    assert all(change.kind != FLUSH for batch in backend.batches for change in batch)


@pytest.mark.parametrize("length", [65_536, 200_000, 262_144, 1 << 20, 32 << 20])
async def test_payloads_of_any_size_arrive_whole(
    connect: Connect, backend: MemoryBackend, length: int
) -> None:
    peer = await connect()
    payload = bytes(range(251)) * (length // 251 + 1)
    peer.nbd.write(4096, payload[:length])
    peer.nbd.write(0, b"behind")
    assert {reply.error for reply in (await peer.replies(2)).values()} == {0}
    assert backend.volumes["data"].data[4096 : 4096 + length] == payload[:length]
    assert bytes(backend.volumes["data"].data[:6]) == b"behind"
    cookie = peer.nbd.read(4096, length)
    assert (await peer.reply(cookie)).data == payload[:length]


async def test_more_reads_than_the_reply_buffer_holds(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    backend.volumes["data"].data[: 40 << 16] = b"".join(
        bytes([index]) * 65_536 for index in range(40)
    )
    cookies = [peer.nbd.read(index << 16, 65_536) for index in range(40)]
    replies = await peer.replies(40)
    assert [replies[cookie].data[0] for cookie in cookies] == list(range(40))
    assert {len(reply.data) for reply in replies.values()} == {65_536}


async def test_cold_reads_are_answered_as_they_finish(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    backend.volumes["data"].data[:4] = b"cold"
    backend.volumes["data"].cold = True
    backend.reads_wait = True
    slow = peer.nbd.read(0, 4)
    quick = peer.nbd.flush()
    assert (await peer.reply(quick)).error == 0
    backend.finish_reads()
    assert (await peer.reply(slow)).data == b"cold"


async def test_length_zero_succeeds_without_a_change(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    cookies = {
        peer.nbd.read(0, 0),
        peer.nbd.write(0, b""),
        peer.nbd.trim(0, 0),
        peer.nbd.write_zeroes(0, 0),
    }
    assert {
        cookie: reply.error for cookie, reply in (await peer.replies(4)).items()
    } == dict.fromkeys(cookies, 0)
    assert backend.batches == []


async def test_refused_requests_keep_the_stream_in_step(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    peer = await connect("wal")
    end = 1 << 20
    refused = [
        (peer.nbd.write(end, b"x" * 1000), c.ENOSPC),
        (peer.nbd.write(end - 1, b"x" * 200_000), c.ENOSPC),
        (peer.nbd.write_zeroes(end - 1, 2), c.ENOSPC),
        (peer.nbd.read(end, 1), c.EINVAL),
        (peer.nbd.trim(end, 1), c.EINVAL),
    ]
    good = peer.nbd.read(0, 10)
    replies = await peer.replies(6)
    assert [replies[cookie].error for cookie, _ in refused] == [error for _, error in refused]
    assert replies[good].data == bytes(10)
    assert backend.batches == []
    assert listeners.server.traffic["wal"].refused == 5
    assert listeners.server.waiting.used == 0


async def test_unknown_commands_and_flags_get_einval(connect: Connect) -> None:
    peer = await connect()
    await peer.send(
        m.request(0, 99, 1, 0, 1)
        + m.request(1 << 9, c.CMD_READ, 2, 0, 1)
        + m.request(0, c.CMD_BLOCK_STATUS, 3, 0, 1)
        + m.request(c.CMD_FLAG_DF, c.CMD_READ, 4, 0, 1)
    )
    answer = b""
    while len(answer) < 64:
        answer += await peer.receive()
    assert answer == b"".join(m.simple_reply(c.EINVAL, cookie) for cookie in (1, 2, 3, 4))


async def test_flush_with_offset_and_length_is_a_flush(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    assert (await peer.reply(peer.nbd.write(0, b"precious"))).error == 0
    await peer.send(m.request(0, c.CMD_FLUSH, 99, 0, 4096))
    assert await peer.receive() == m.simple_reply(0, 99)
    assert backend.flushes == 1
    assert bytes(backend.volumes["data"].data[:8]) == b"precious"


async def test_bad_magic_closes_after_the_replies_before_it(connect: Connect) -> None:
    peer = await connect()
    await peer.send(m.request(0, c.CMD_READ, 1, 0, 4) + bytes(28))
    assert await peer.receive() == m.simple_reply(0, 1) + bytes(4)
    assert await peer.closed()


async def test_storage_errors_become_wire_errors_and_are_counted(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    peer = await connect()
    backend.error = errno.EDQUOT
    assert (await peer.reply(peer.nbd.write(0, b"x"))).error == c.ENOSPC
    assert (await peer.reply(peer.nbd.write(0, b"x"))).error == c.ENOSPC
    assert listeners.server.failing == {("data", "change"): errno.EDQUOT}
    assert backend.volumes["data"].failing == {"change": errno.EDQUOT}
    assert listeners.server.traffic["data"].failed == 2
    backend.error = 0
    assert (await peer.reply(peer.nbd.write(0, b"x"))).error == 0
    assert listeners.server.failing == {}
    assert backend.volumes["data"].failing == {}


@pytest.mark.parametrize("cold", [False, True])
async def test_failed_reads_get_their_errno(
    connect: Connect, backend: MemoryBackend, listeners: Listeners, cold: bool
) -> None:
    peer = await connect()
    volume = backend.volumes["data"]
    if cold:
        volume.cold = True
    volume.error = errno.ENODEV
    assert (await peer.reply(peer.nbd.read(0, 4096))).error == c.EIO
    assert listeners.server.failing == {("data", "read"): errno.ENODEV}
    volume.error = 0
    reply = await peer.reply(peer.nbd.read(0, 4096))
    assert (reply.error, len(reply.data)) == (0, 4096)


@pytest.mark.parametrize(
    "limits",
    [NbdLimits(), NbdLimits(connection_read_bytes_max=4096, connection_share_bytes=0)],
    ids=["at once", "one after the other"],
)
async def test_reads_after_lost_writes_are_answered_by_workers(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    """Which find a leg that has them."""
    peer, volume = await connect(), backend.volumes["data"]
    content = bytes(range(1, 256)) * 65
    volume.data[: len(content)] = content
    volume.lost = True
    cookies = [peer.nbd.read(index * 4096, 4096) for index in range(4)]
    replies = await peer.replies(4)
    assert b"".join(replies[cookie].data for cookie in cookies) == bytes(volume.data[: 4 * 4096])
    assert listeners.server.traffic["data"].by_operation()["read"] == (4, 4 * 4096)


async def test_traffic_counts_requests_and_bytes_by_operation(
    connect: Connect, listeners: Listeners
) -> None:
    peer = await connect()
    peer.nbd.write(0, b"x" * 700)
    peer.nbd.read(0, 4096)
    peer.nbd.read(0, 300_000)
    peer.nbd.flush()
    peer.nbd.trim(0, 512)
    peer.nbd.write_zeroes(0, 1024)
    await peer.replies(6)
    await peer.send(m.request(0, c.CMD_CACHE, 99, 0, 2048))
    assert await peer.receive() == m.simple_reply(0, 99)
    assert listeners.server.traffic["data"].by_operation() == {
        "read": (2, 304_096),
        "write": (1, 700),
        "flush": (1, 0),
        "trim": (1, 512),
        "write_zeroes": (1, 1024),
        "cache": (1, 2048),
        "block_status": (0, 0),
    }


async def raw(peer: Peer, *requests: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    """(cookie, error) of replies without content to these requests (flags, command, offset,
    length), whose cookies are counted from 1.
    """
    await peer.send(
        b"".join(
            m.request(flags, command, cookie, offset, length)
            for cookie, (flags, command, offset, length) in enumerate(requests, 1)
        )
    )
    answer = b""
    while len(answer) < m.SIMPLE_REPLY.size * len(requests):
        answer += await peer.receive()
    return [(cookie, error) for _magic, error, cookie in m.SIMPLE_REPLY.iter_unpack(answer)]


@pytest.mark.parametrize("limits", [NbdLimits(cache_piece_bytes=4096, cache_bytes_max=10_000)])
async def test_cache_reads_the_range_in_pieces_up_to_its_limit(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    assert await raw(peer, (0, c.CMD_CACHE, 512, 1 << 20)) == [(1, 0)]
    assert backend.sparse_reads == [(512, 4096), (4608, 4096), (8704, 1808)]


async def test_cache_ends_at_the_first_error(connect: Connect, backend: MemoryBackend) -> None:
    peer = await connect()
    backend.volumes["data"].error = errno.EIO
    assert await raw(peer, (0, c.CMD_CACHE, 0, 32 << 20)) == [(1, c.EIO)]
    assert len(backend.sparse_reads) == 1


async def test_fast_zero_is_served_where_it_is_fast(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    assert await raw(peer, (c.CMD_FLAG_FAST_ZERO, c.CMD_WRITE_ZEROES, 0, 4096)) == [(1, 0)]
    assert [change.kind for batch in backend.batches for change in batch] == [ZERO]


@pytest.mark.parametrize(("flags", "fast"), [(0, False), (c.CMD_FLAG_NO_HOLE, True)])
async def test_fast_zero_that_is_slow_is_refused_and_changes_nothing(
    connect: Connect, backend: MemoryBackend, flags: int, fast: bool
) -> None:
    peer = await connect()
    backend.volumes["data"].can_zero_fast = fast
    flags |= c.CMD_FLAG_FAST_ZERO
    assert await raw(peer, (flags, c.CMD_WRITE_ZEROES, 0, 4096)) == [(1, c.ENOTSUP)]
    assert backend.batches == []


async def test_zeroes_without_the_flag_are_never_too_slow(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    backend.volumes["data"].can_zero_fast = False
    assert await raw(peer, (c.CMD_FLAG_NO_HOLE, c.CMD_WRITE_ZEROES, 0, 4096)) == [(1, 0)]


async def test_a_refused_write_is_answered_after_its_payload(connect: Connect) -> None:
    peer = await connect()
    length = c.PAYLOAD_BYTES_MAX + 1
    await peer.send(m.request(0, c.CMD_WRITE, 1, 0, length) + bytes(length - 1))
    assert await peer.silent()
    await peer.send(b"x" + m.request(0, c.CMD_READ, 2, 0, 1))
    answer = b""
    while len(answer) < 33:
        answer += await peer.receive()
    assert m.simple_reply(c.ENOSPC, 1) in answer
    assert m.simple_reply(0, 2) in answer


async def test_connections_are_counted(connect: Connect, backend: MemoryBackend) -> None:
    peers = [await connect(), await connect(), await connect("wal")]
    assert [volume.connections for volume in backend.volumes.values()] == [2, 1]
    peers[0].close()
    await eventually(lambda: backend.volumes["data"].connections == 1)


async def test_many_clients_at_once(connect: Connect, backend: MemoryBackend) -> None:
    peers = [await connect() for _ in range(20)]

    async def work(index: int, peer: Peer) -> None:
        for turn in range(20):
            offset = (index * 20 + turn) * 4096
            peer.nbd.write(offset, bytes([index]) * 4096)
            await peer.replies(1)
            assert (await peer.reply(peer.nbd.read(offset, 4096))).data == bytes([index]) * 4096

    await asyncio.gather(*(work(index, peer) for index, peer in enumerate(peers)))
    assert sum(len(batch) for batch in backend.batches) == 400
