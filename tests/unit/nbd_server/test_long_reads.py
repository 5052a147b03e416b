"""Long READs: which piece is read next, and what becomes of the whole."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple, cast

import pytest

from duplexd.limits import NbdLimits
from duplexd.nbd_server.long_read import LongRead, ReadTurns
from duplexd.nbd_server.round_robin import RoundRobin
from duplexd.runtime.pipes import Pipe
from duplexd.units import KIB, MIB
from tests.unit.nbd_server.memory_backend import MemoryVolume
from tests.unit.nbd_server.peer import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.backend import Backend, Volume
    from duplexd.nbd_server.listeners import Listeners
    from tests.unit.nbd_server.memory_backend import MemoryBackend
    from tests.unit.nbd_server.peer import Peer

    Connect = Callable[..., Awaitable[Peer]]


class Call(NamedTuple):
    volume: Volume
    offset: int
    length: int
    done: Callable[[int, bytearray], None]

    def answer(self, number: int = 0) -> None:
        self.done(number, bytearray(0 if number else 28 + self.length))


class Disk:
    """A backend that reads when a test says so; or at once, if `prompt`."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.prompt = False

    def read(
        self,
        volume: Volume,
        offset: int,
        length: int,
        _room: int,
        done: Callable[[int, bytearray], None],
    ) -> None:
        self.calls.append(call := Call(volume, offset, length, done))
        if self.prompt:
            call.answer()


class Owner:
    takes_pipes = False
    dropped = False
    since = 0.0
    leaving = False
    write_paused = False


class Reader:
    """Turns, and the outcome of what was asked. `loop_turn` is one of the loop."""

    def __init__(self, cold: bool = True) -> None:
        self.disk = Disk()
        self.soon: list[Callable[[], None]] = []
        limits = NbdLimits(volume_pieces_max=2)
        turns = RoundRobin(self.soon.append, seconds=60.0)
        self.turns = ReadTurns(cast("Backend", self.disk), limits, turns)
        self.outcomes: list[int] = []
        self.contents: list[bytes] = []
        self.data, self.wal = MemoryVolume("data", MIB), MemoryVolume("wal", MIB)
        self.data.cold = self.wal.cold = cold

    def ask_only(self, owner: Owner, volume: MemoryVolume, offset: int, length: int) -> None:
        def done(number: int, read: LongRead) -> None:
            self.outcomes.append(number)
            if not number:
                views = read.views(offset, length)
                parts = [view.read() if isinstance(view, Pipe) else view for view in views]
                self.contents.append(b"".join(parts))

        read = LongRead(owner, volume, offset, length, 28, 64 * KIB, False, done)
        self.turns.ask(read)

    def ask(self, owner: Owner, volume: MemoryVolume, offset: int, length: int) -> None:
        self.ask_only(owner, volume, offset, length)
        self.loop_turn()

    def loop_turn(self) -> None:
        due, self.soon[:] = self.soon.copy(), []
        for call in due:
            call()

    def lines(self) -> list[str]:
        """The volumes that something is kept of."""
        return list(self.turns._lines)

    def begun(self) -> list[int]:
        """Offsets of the calls, in KiB."""
        return [call.offset // KIB for call in self.disk.calls]


def test_few_pieces_of_a_volume_are_read_at_once_and_those_of_others_do_not_wait() -> None:
    reader = Reader()
    reader.ask(Owner(), reader.data, 0, 512 * KIB)
    assert reader.begun() == [0, 64]
    reader.ask(Owner(), reader.wal, 0, 512 * KIB)
    assert reader.begun() == [0, 64, 0, 64]
    reader.disk.calls[0].answer()
    assert reader.begun() == [0, 64, 0, 64, 128]


def test_connections_take_turns_piece_by_piece() -> None:
    reader, first, second = Reader(), Owner(), Owner()
    reader.ask(first, reader.data, 0, 192 * KIB)
    reader.ask(first, reader.data, 192 * KIB, 192 * KIB)
    reader.ask(second, reader.data, 512 * KIB, 192 * KIB)
    for at in range(9):
        reader.disk.calls[at].answer()
    assert reader.begun() == [0, 64, 128, 512, 192, 576, 256, 640, 320]
    assert reader.outcomes == [0, 0, 0]


def test_a_piece_that_fails_is_the_last_and_the_read_has_its_error() -> None:
    reader = Reader()
    reader.ask(Owner(), reader.data, 0, 512 * KIB)
    reader.disk.calls[0].answer(errno.EIO)
    assert reader.outcomes == []  # another one is being read
    reader.disk.calls[1].answer()
    assert reader.begun() == [0, 64]
    assert reader.outcomes == [errno.EIO]


def test_no_piece_is_begun_for_a_client_that_has_gone() -> None:
    reader, owner = Reader(), Owner()
    reader.ask(owner, reader.data, 0, 512 * KIB)
    reader.ask(owner, reader.data, 0, 512 * KIB)
    owner.dropped = True
    reader.ask(Owner(), reader.data, 512 * KIB, 64 * KIB)
    for at in range(3):
        reader.disk.calls[at].answer()
    assert reader.begun() == [0, 64, 512]
    assert len(reader.outcomes) == 3


def test_one_piece_that_is_in_memory_needs_no_worker() -> None:
    reader = Reader(cold=False)
    reader.data.data[512 : 512 + 1000] = bytes(range(250)) * 4
    reader.ask(Owner(), reader.data, 512, 1000)
    assert (reader.outcomes, reader.contents) == ([0], [bytes(range(250)) * 4])
    assert reader.begun() == []


def test_several_pieces_are_read_by_workers_also_where_they_are_in_memory() -> None:
    reader = Reader(cold=False)
    reader.ask(Owner(), reader.data, 0, 128 * KIB)
    assert reader.begun() == [0, 64]


@pytest.mark.parametrize("state", ["cold", "lost", "error"])
def test_one_piece_that_is_not_to_be_had_from_memory_is_read_by_a_worker(state: str) -> None:
    reader = Reader(cold=False)
    setattr(reader.data, state, errno.EIO if state == "error" else True)
    reader.ask(Owner(), reader.data, 64 * KIB, 64 * KIB)
    assert (reader.begun(), reader.outcomes) == ([64], [])
    reader.disk.calls[0].answer()
    assert reader.outcomes == [0]


def test_each_volume_has_one_read_from_memory_in_a_turn_of_the_loop() -> None:
    reader = Reader(cold=False)
    for volume in (reader.data, reader.data, reader.data, reader.wal):
        reader.ask_only(Owner(), volume, 0, 64 * KIB)
    counts = []
    for _ in range(4):
        reader.loop_turn()
        counts.append(len(reader.outcomes))
    assert counts == [2, 3, 4, 4]


def test_nothing_is_read_for_a_client_that_does_not_take_its_replies() -> None:
    reader, slow = Reader(cold=False), Owner()
    slow.write_paused = True
    reader.ask(slow, reader.data, 0, 64 * KIB)
    reader.ask(slow, reader.data, 0, 128 * KIB)
    reader.ask(Owner(), reader.data, 0, 64 * KIB)
    assert (reader.outcomes, reader.begun()) == ([0], [])
    reader.loop_turn()
    assert reader.soon == []  # nothing is looked at again and again meanwhile
    slow.write_paused = False
    reader.turns.resume(reader.data)
    reader.loop_turn()
    reader.loop_turn()
    assert (reader.outcomes, reader.begun()) == ([0, 0], [0, 64])


@pytest.mark.parametrize("gone", [False, True])
def test_nothing_is_kept_of_a_volume_that_was_read(gone: bool) -> None:
    """Each point is an export of its own, and there is one more with each backup."""
    reader = Reader()
    for number in range(100):
        owner, point = Owner(), MemoryVolume(f"data@{number}", MIB)
        point.cold = True
        reader.ask(owner, point, 0, 128 * KIB)
        reader.ask(owner, point, 0, 192 * KIB)
        owner.dropped = gone
        while reader.disk.calls:
            assert reader.lines() == [point.name]
            reader.disk.calls.pop(0).answer()
            reader.loop_turn()
    assert (len(reader.outcomes), reader.lines()) == (200, [])


def test_a_volume_is_kept_while_a_client_of_it_does_not_take_its_replies() -> None:
    reader, slow = Reader(), Owner()
    slow.write_paused = True
    reader.ask(slow, reader.data, 0, 64 * KIB)
    reader.ask(Owner(), reader.data, 0, 64 * KIB)
    reader.disk.calls[0].answer()
    assert reader.lines() == ["data"]
    slow.write_paused = False
    reader.turns.resume(reader.data)
    reader.loop_turn()
    reader.disk.calls[1].answer()
    assert (reader.outcomes, reader.lines()) == ([0, 0], [])


def test_reads_that_are_answered_at_once_are_each_read_whole() -> None:
    """What a read answers goes on in the call that made it."""
    reader, owner = Reader(), Owner()
    reader.disk.prompt = True
    for offset in (0, 256 * KIB):
        reader.ask_only(owner, reader.data, offset, 256 * KIB)
    reader.loop_turn()
    assert sorted(reader.begun()) == [0, 64, 128, 192, 256, 320, 384, 448]
    assert (reader.outcomes, reader.lines()) == ([0, 0], [])


@pytest.mark.parametrize(
    "limits",
    [NbdLimits(piece_bytes_max=128 * KIB), NbdLimits(piece_bytes_max=128 * KIB, pipes_max=3)],
)
async def test_the_pieces_are_one_reply(connect: Connect, backend: MemoryBackend) -> None:
    data = backend.volumes["data"].data
    data[: 2 * MIB] = b"".join(number.to_bytes(4, "big") for number in range(MIB // 2))
    peer = await connect()
    cookie = peer.nbd.read(513, MIB + 3)
    assert (await peer.replies(1))[cookie].data == bytes(data[513 : 516 + MIB])


async def test_a_long_read_over_a_unix_socket_is_not_copied(
    connect: Connect, backend: MemoryBackend
) -> None:
    content = bytes(range(256)) * 1024
    backend.volumes["data"].data[512 : 512 + len(content)] = content
    peer = await connect()
    cookies = [peer.nbd.read(512, len(content)) for _ in range(32)]  # more than there are pipes
    replies = await peer.replies(32)
    assert all(replies[cookie].data == content for cookie in cookies)
    assert bool(backend.spliced) == peer.is_local


@pytest.mark.parametrize("state", ["cold", "lost"])
async def test_what_the_page_cache_does_not_have_is_read_by_a_worker(
    connect: Connect, backend: MemoryBackend, state: str
) -> None:
    volume = backend.volumes["data"]
    volume.data[:MIB] = b"x" * MIB
    setattr(volume, state, True)
    peer = await connect()
    assert (await peer.reply(peer.nbd.read(0, MIB))).data == b"x" * MIB
    assert backend.spliced == 0


async def test_a_client_that_reads_slowly_gets_all_of_it(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    content = bytes(range(256)) * 4096
    backend.volumes["data"].data[:MIB] = content
    peer, server = await connect(), listeners.server
    cookies = [peer.nbd.read(0, MIB) for _ in range(8)]
    await peer.send()
    await eventually(lambda: server.reading.used > 2 * MIB)
    replies = await peer.replies(8)
    assert all(replies[cookie].data == content for cookie in cookies)
    await eventually(lambda: server.reading.used == 0)


async def test_a_failed_read_leaves_the_connection_in_step(
    connect: Connect, backend: MemoryBackend
) -> None:
    peer = await connect()
    backend.volumes["data"].error = errno.EIO
    assert (await peer.reply(peer.nbd.read(0, 4 * MIB))).error == errno.EIO
    backend.volumes["data"].error = 0
    assert len((await peer.reply(peer.nbd.read(0, 4 * MIB))).data) == 4 * MIB


@pytest.mark.parametrize("disconnects", [False, True])
async def test_a_client_that_goes_without_taking_its_replies_leaves_nothing(
    connect: Connect, backend: MemoryBackend, listeners: Listeners, disconnects: bool
) -> None:
    peer, server = await connect(), listeners.server
    for _ in range(64):  # more than sockets take
        peer.nbd.read(0, MIB)
    if disconnects:
        peer.nbd.disconnect()
    await peer.send()
    await eventually(lambda: server.reading.used > 12 * MIB)
    peer.close()
    await eventually(lambda: backend.volumes["data"].connections == 0)
    await eventually(lambda: server.reading.used == 0)


async def test_a_client_that_goes_in_the_middle_leaves_nothing(
    connect: Connect, backend: MemoryBackend
) -> None:
    backend.reads_wait = True
    peer = await connect()
    peer.nbd.read(0, 8 * MIB)
    await peer.send()
    await eventually(lambda: len(backend.reads) == 2)
    peer.close()
    await eventually(lambda: backend.gone != [])
    backend.finish_reads()
    assert not backend.reads
