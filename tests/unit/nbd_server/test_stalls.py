"""Clients that stop in the middle, take no replies, or want all places."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING, cast

import pytest

from duplexd.known import known
from duplexd.limits import NbdLimits
from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd_server.peer_places import Places, Shares, peer_of
from duplexd.nbd_server.reach import Policy
from duplexd.nbd_server.stalls import Progress, kept_bytes
from duplexd.net.allow import Caller
from tests.unit.nbd_server.peer import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.nbd_server.listeners import Listeners
    from duplexd.nbd_server.nbd_connection import Connection
    from tests.unit.nbd_server.memory_backend import MemoryBackend
    from tests.unit.nbd_server.peer import Peer

    Connect = Callable[..., Awaitable[Peer]]

KIB, MIB = 1 << 10, 1 << 20
SOON = NbdLimits(stall_seconds_max=0.05, look_seconds=0.01)
LIMITS = NbdLimits(stall_seconds_max=30.0, stall_bytes_min=1000)


@pytest.mark.parametrize("limits", [SOON])
@pytest.mark.parametrize("payload", [0, 10, 70_000])
async def test_a_payload_that_does_not_go_on_ends_its_connection(
    connect: Connect, payload: int
) -> None:
    peer, other = await connect(), await connect()
    await peer.send(m.request(0, c.CMD_WRITE, 1, 0, 200_000) + bytes(payload))
    assert await peer.closed()
    assert (await other.reply(other.nbd.read(0, 4))).data == bytes(4)


@pytest.mark.parametrize("limits", [SOON])
async def test_replies_that_are_not_taken_end_their_connection(
    connect: Connect, listeners: Listeners, backend: MemoryBackend
) -> None:
    backend.volumes["data"].cold = True
    peer = await connect()
    peer.nbd.read(0, 32 * MIB)
    await peer.send()
    await eventually(lambda: listeners.server.reading.used > 0)
    await eventually(lambda: not listeners.server.connections)
    assert listeners.server.reading.used == 0


@pytest.mark.parametrize("limits", [SOON])
async def test_a_client_whose_changes_are_held_is_not_stalled(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    peer, stalled = await connect(), await connect()
    backend.holding = True
    held = peer.nbd.write(0, b"x")
    await peer.send()
    await stalled.send(m.request(0, c.CMD_WRITE, 1, 0, 200_000))
    assert await stalled.closed()  # so the time is over
    backend.release()
    assert (await peer.reply(held)).error == 0


async def test_replies_count_until_the_socket_has_taken_them(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    backend.volumes["data"].cold = True
    peer = await connect()
    peer.nbd.read(0, 32 * MIB)
    await peer.send()
    await eventually(lambda: 0 < listeners.server.reading.used < 32 * MIB)  # some was sent
    assert listeners.server.reading.used > 16 * MIB
    await peer.replies(1)
    assert listeners.server.reading.used == 0


def test_what_goes_on_is_not_stalled_however_slowly() -> None:
    progress = Progress(LIMITS)
    assert [progress.stalled(now, now * 100, None) for now in range(0, 200, 10)] == [""] * 20


async def test_what_a_client_takes_shows_long_before_the_kernel_has_room_for_more(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    """Else a client that takes less than 50 KiB/s of long replies looked like one that stopped."""
    backend.volumes["data"].cold = True
    peer = await connect()
    peer.nbd.read(0, 32 * MIB)
    await peer.send()
    (connection,) = cast("set[Connection]", listeners.server.connections)
    wire = connection._socket
    await eventually(lambda: wire.unsent_bytes)
    await asyncio.sleep(0.05)  # until nothing moves any more
    sent, kept, progress = wire.sent_bytes, kept_bytes(wire.sock), Progress(LIMITS)

    def look(now: float) -> str:
        receiver = known(connection._receiver, "it has negotiated")
        return progress.look(now, receiver, connection._wire, wire, reads=True)

    assert not look(0)
    for _ in range(4):
        await peer.receive(64 * KIB)
    await eventually(lambda: kept_bytes(wire.sock) + LIMITS.stall_bytes_min <= kept)
    assert wire.sent_bytes == sent
    assert [look(now) for now in (20, 40, 60)] == ["", "", "it does not take its replies"]


def test_what_goes_on_by_single_bytes_is_stalled() -> None:
    progress = Progress(LIMITS)
    found = [progress.stalled(now, now, None) for now in range(0, 50, 10)]
    assert found == ["", "", "", "it does not send the rest of a request", found[4]]


def test_time_without_a_request_does_not_count() -> None:
    progress = Progress(LIMITS)
    assert not progress.stalled(0, 5, None)
    assert not progress.stalled(20, None, None)
    assert not progress.stalled(40, 5, None)


@pytest.mark.parametrize("shares", [Shares(peer=2)])
async def test_a_peer_gets_no_more_places_than_its_own(
    connect: Connect, listeners: Listeners
) -> None:
    peers = [await connect(), await connect()]
    assert await (await connect(None)).closed()
    assert listeners.server.connections_refused == 1
    peers[0].close()
    await eventually(lambda: len(listeners.server.connections) == 1)
    await connect()


def test_places_are_kept_for_other_peers() -> None:
    places = Places(8, Shares())
    assert [bool(places.take(1000)) for _ in range(8)] == [False] * 6 + [True] * 2
    assert [bool(places.take(2000)) for _ in range(3)] == [False] * 2 + [True]
    places.leave(1000)
    assert not places.take(2000)


@pytest.mark.parametrize(
    ("other", "is_other"),
    [
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", False),
        ("2001:db8:1:3::1", True),
        ("192.0.2.1", True),
    ],
)
def test_addresses_of_one_ipv6_network_are_one_peer(other: str, is_other: bool) -> None:
    places = Places(8, Shares(peer=1))
    first, second = (peer_of(Caller(address=ip_address(at))) for at in ("2001:db8:1:2::1", other))
    assert not places.take(first)
    why = "" if is_other else "this network 2001:db8:1:2::/64 has 1 connections"
    assert places.take(second) == why


def test_each_ipv4_address_is_a_peer() -> None:
    places = Places(8, Shares(peer=1))
    assert not places.take(peer_of(Caller(address=ip_address("192.0.2.1"))))
    assert not places.take(peer_of(Caller(address=ip_address("192.0.2.2"))))
    assert "this address has" in places.take(peer_of(Caller(address=ip_address("192.0.2.2"))))


@pytest.mark.parametrize("shares", [Shares(volume=1)])
async def test_a_volume_gets_no_more_connections_than_its_own(connect: Connect) -> None:
    await connect()
    with pytest.raises(Exception, match="has 1 connections"):
        await connect()
    await connect("wal")


@pytest.mark.parametrize("shares", [Shares(peer=1)])
async def test_a_reload_changes_how_many_places_each_may_have(
    connect: Connect, listeners: Listeners
) -> None:
    await connect()
    assert await (await connect(None)).closed()
    listeners.server.admit(Policy(shares=Shares(peer=4, volume=1)), {})
    with pytest.raises(Exception, match="has 1 connections"):
        await connect()
    await connect("wal")


@pytest.mark.parametrize("shares", [Shares(peer=2)])
async def test_connections_keep_their_places_when_there_are_fewer(
    connect: Connect, listeners: Listeners
) -> None:
    peers = [await connect(), await connect()]
    listeners.server.admit(Policy(shares=Shares(peer=1)), {})
    assert (await peers[1].reply(peers[1].nbd.read(0, 4))).data == bytes(4)


@pytest.mark.parametrize("limits", [NbdLimits(log_lines_burst=3)])
async def test_lines_about_clients_are_seldom(
    connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(5):
        await connect()
    assert capsys.readouterr().out.count("NBD client connected") == 3
