"""Where the server listens, whom it lets in, and how it stops."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import ConfigurationError, WrongStateError
from duplexd.limits import NbdLimits
from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd_server.listeners import Listeners
from duplexd.nbd_server.peer_places import Shares
from duplexd.net.address import TcpAddress, UnixAddress
from tests.unit.nbd_server.peer import PATIENCE_SECONDS, Peer, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.unit.nbd_server.memory_backend import MemoryBackend

    Connect = Callable[..., Awaitable[Peer]]

NOWHERE = UnixAddress("/proc/at/all/s")  # where no directory can be made


async def test_stop_removes_the_socket(backend: MemoryBackend, tmp_path: Path) -> None:
    listeners = Listeners(backend, [UnixAddress(f"{tmp_path}/s")], NbdLimits())
    await listeners.start()
    assert (tmp_path / "s").exists()
    await listeners.stop()
    assert not (tmp_path / "s").exists()


async def test_failed_start_listens_nowhere(backend: MemoryBackend, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        await Listeners(
            backend,
            [UnixAddress(f"{tmp_path}/s"), TcpAddress("127.0.0.1", 0), NOWHERE],
            NbdLimits(),
        ).start()
    assert not (tmp_path / "s").exists()


async def test_port_in_use_is_refused(listeners: Listeners, backend: MemoryBackend) -> None:
    (address,) = [each for each in listeners.addresses if isinstance(each, TcpAddress)]
    with pytest.raises(WrongStateError, match="in use"):
        await Listeners(backend, [address], NbdLimits()).start()


async def test_update_changes_listeners_and_keeps_connections(
    backend: MemoryBackend, tmp_path: Path
) -> None:
    old, kept, new = (UnixAddress(f"{tmp_path}/{name}") for name in ("old", "kept", "new"))
    listeners = Listeners(backend, [old, kept], NbdLimits())
    await listeners.start()
    peer = Peer(old)
    await peer.open()
    await peer.go("data")
    await listeners.update([kept, new])
    assert set(listeners.addresses) == {kept, new}
    assert not (tmp_path / "old").exists()
    assert (await peer.reply(peer.nbd.read(0, 4))).data == bytes(4)
    peer.close()
    await listeners.stop()


async def test_update_makes_a_socket_again_whose_file_was_removed(
    backend: MemoryBackend, tmp_path: Path
) -> None:
    lost, kept = (UnixAddress(f"{tmp_path}/{name}") for name in ("lost", "kept"))
    listeners = Listeners(backend, [lost, kept], NbdLimits())
    await listeners.start()
    peer = Peer(lost)
    await peer.open()
    await peer.go("data")
    assert await listeners.update([lost, kept]) == []
    (tmp_path / "lost").unlink()
    assert await listeners.update([lost, kept]) == [lost]
    assert set(listeners.addresses) == {lost, kept}
    assert (await peer.reply(peer.nbd.read(0, 4))).data == bytes(4)  # it stays connected
    peer.close()
    another = Peer(lost)
    await another.open()
    another.close()
    await listeners.stop()
    assert not (tmp_path / "lost").exists()


async def test_failed_update_changes_nothing(listeners: Listeners, tmp_path: Path) -> None:
    before = listeners.addresses
    with pytest.raises(ConfigurationError):
        await listeners.update([UnixAddress(f"{tmp_path}/new"), NOWHERE])
    assert listeners.addresses == before
    assert not (tmp_path / "new").exists()


async def test_stop_waits_for_what_is_in_flight(
    connect: Connect, listeners: Listeners, backend: MemoryBackend
) -> None:
    peer, idle, haggling = await connect(), await connect(), await connect(None)
    backend.holding = True
    cookie = peer.nbd.write(0, b"x")
    await peer.send()
    await eventually(lambda: backend.held)
    stopping = asyncio.create_task(listeners.stop(PATIENCE_SECONDS))
    assert await idle.closed()
    assert await haggling.closed()
    assert not stopping.done()
    backend.release()
    assert (await peer.reply(cookie)).error == 0
    await stopping
    assert await peer.closed()
    await listeners.start()  # so that the fixture finds a started server


@pytest.mark.parametrize("seconds", [0.0, 0.05])
async def test_stop_cuts_off_at_its_deadline(
    connect: Connect, listeners: Listeners, backend: MemoryBackend, seconds: float
) -> None:
    peer = await connect()
    backend.holding = True
    peer.nbd.write(0, b"x")
    await peer.send()
    await eventually(lambda: backend.held)
    await listeners.stop(seconds)
    assert backend.held == []
    assert await peer.closed()
    await listeners.start()


async def test_handshake_has_a_time_limit_and_transmission_has_none(
    backend: MemoryBackend, tmp_path: Path
) -> None:
    async def listen(seconds: float) -> tuple[Listeners, Peer]:
        limits = NbdLimits(handshake_seconds_max=seconds)
        address = UnixAddress(f"{tmp_path}/{seconds}")
        listeners, done = Listeners(backend, [address], limits), Peer(address)
        await listeners.start()
        try:
            await done.open()
            await done.go("data")
        except ConnectionError:  # the machine was too slow
            done.close()
            await listeners.stop()
            return await listen(10 * seconds)
        return listeners, done

    listeners, done = await listen(0.1)
    slow = Peer(listeners.addresses[0])
    await slow.open()
    assert await slow.closed()  # which comes after the time of `done` is over, too
    assert (await done.reply(done.nbd.read(0, 4))).data == bytes(4)
    done.close()
    slow.close()
    await listeners.stop()


@pytest.mark.parametrize("limits", [NbdLimits(connections_max=2)])
@pytest.mark.parametrize("shares", [Shares(peer=2, volume=2)])
async def test_connections_beyond_the_limit_are_closed(
    connect: Connect, listeners: Listeners
) -> None:
    peers = [await connect(), await connect()]
    for _ in range(3):
        assert await (await connect(None)).closed()
    assert listeners.server.connections_refused == 3
    assert (await peers[0].reply(peers[0].nbd.read(0, 4))).data == bytes(4)
    peers[0].close()
    await eventually(lambda: len(listeners.server.connections) == 1)
    await connect()


@pytest.mark.parametrize("limits", [NbdLimits(handshake_options_max=5)])
async def test_options_beyond_the_limit_close(connect: Connect) -> None:
    peer = await connect(None)
    await peer.send(m.CLIENT_FLAGS.pack(3) + 6 * m.option(c.OPT_LIST))
    assert await peer.closed()


@pytest.mark.parametrize("limits", [NbdLimits(connection_unsent_bytes_max=65_536)])
async def test_client_that_never_reads_its_list_is_not_read(
    connect: Connect, listeners: Listeners
) -> None:
    peer = await connect(None)
    await peer.send(m.CLIENT_FLAGS.pack(3))
    asked = asyncio.create_task(peer.send(m.option(c.OPT_LIST) * 10_000 + m.option(c.OPT_ABORT)))
    await asyncio.sleep(0.1)
    answer = 0
    while data := await peer.receive():
        answer += len(data)
    await asked
    entries = len(
        m.list_entry("data", "duplexd volume data")
        + m.list_entry("wal", "duplexd volume wal")
        + m.option_reply(c.OPT_LIST, c.REP_ACK)
    )
    assert answer == len(m.greeting(3)) + 10_000 * entries + len(
        m.option_reply(c.OPT_ABORT, c.REP_ACK)
    )


async def test_volume_taken_away_during_the_handshake_closes(
    connect: Connect, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([backend.volumes["data"], None])
    monkeypatch.setattr(backend, "volume", lambda _name: next(found))
    peer = await connect(None)
    await peer.send(m.CLIENT_FLAGS.pack(3) + m.option(c.OPT_GO, m.go_data("data", [])))
    assert await peer.closed()


async def test_random_bytes_neither_stop_the_server_nor_leak(
    connect: Connect, listeners: Listeners, backend: MemoryBackend
) -> None:
    chance = random.Random(20261123)
    go = m.CLIENT_FLAGS.pack(3) + m.option(c.OPT_GO, m.go_data("data", []))
    files = len(os.listdir("/proc/self/fd"))
    for turn in range(150):
        peer = await connect(None)
        noise = chance.randbytes(chance.randrange(1, 5000))
        header = m.request(
            chance.randrange(4),
            chance.randrange(9),
            turn,
            chance.randrange(1 << 27),
            chance.randrange(1 << 17),
        )
        await peer.send([noise, go + noise, go + header + noise][turn % 3])
        peer.close()
    await eventually(lambda: not listeners.server.connections)
    assert listeners.server.waiting.used == listeners.server.reading.used == 0
    assert len(os.listdir("/proc/self/fd")) <= files
    peer = await connect()
    assert (await peer.reply(peer.nbd.flush())).error == 0
