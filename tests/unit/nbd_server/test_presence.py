"""Nothing is taken of a client that has gone: what another one sends after that is newer than all
that it had sent, and may be done and acknowledged already.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.limits import NbdLimits
from duplexd.nbd.messages import SIMPLE_REPLY
from tests.unit.nbd_server.peer import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.backend import Change
    from duplexd.nbd_server.listeners import Listeners
    from tests.unit.nbd_server.memory_backend import MemoryBackend
    from tests.unit.nbd_server.peer import Peer

    Connect = Callable[..., Awaitable[Peer]]

BLOCK = 512
OLD, NEW = b"o" * BLOCK, b"n" * BLOCK
BURST = 200  # WRITEs: more than is received at once, or taken in a turn
SOME = 50  # that are all on the other side when it closes


@pytest.fixture
def taken(backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the WRITEs contain, in the order in which they are taken."""
    found, submit = list[bytes](), backend.submit

    def noting(changes: list[Change]) -> None:
        found.extend(bytes(change.data) for change in changes)
        submit(changes)

    monkeypatch.setattr(backend, "submit", noting)
    return found


async def test_nothing_is_taken_behind_what_another_client_has_sent_later(
    connect: Connect, backend: MemoryBackend, taken: list[bytes]
) -> None:
    """More than is received at once, or taken in a turn: the rest would come behind NEW."""
    gone, other = await connect(), await connect()
    backend.holding = True
    for _ in range(BURST):
        gone.nbd.write(0, OLD)
    await gone.send()
    gone.close()
    other.nbd.write(0, NEW)
    await other.send()
    await eventually(lambda: NEW in taken)
    await eventually(lambda: backend.volumes["data"].connections == 1)
    assert taken[-1] == NEW
    backend.release()
    await other.replies(1)
    assert backend.volumes["data"].data[:BLOCK] == NEW


@pytest.mark.parametrize(
    "limits",
    [NbdLimits(connection_share_bytes=0, request_bytes=0, connection_in_flight_bytes_max=BLOCK)],
)
async def test_one_that_goes_while_its_turn_is_due_is_not_read(
    connect: Connect, backend: MemoryBackend, taken: list[bytes]
) -> None:
    """It was not read, because a change of it was held: the loop comes to its turn first, then to
    the news that it has gone.
    """
    gone, other = await connect(), await connect()
    backend.holding = True
    held = gone.nbd.write(BLOCK, OLD)
    await gone.send()
    await eventually(lambda: backend.held)
    for offset in (2 * BLOCK, 0):  # the first one waits, and the socket is not read
        gone.nbd.write(offset, OLD)
        await gone.send()
        await asyncio.sleep(0.05)
    other.nbd.write(0, NEW)
    backend.release()
    assert (await gone.reply(held)).error == 0
    gone.close()
    await other.replies(1)
    await eventually(lambda: backend.volumes["data"].connections == 1)
    assert taken[-1] == NEW
    assert backend.volumes["data"].data[:BLOCK] == NEW


async def test_what_came_before_a_goodbye_is_done_however_much_it_is(
    connect: Connect, backend: MemoryBackend
) -> None:
    """And answered: a socket that is closed while something is in it would reset the connection."""
    gone, other = await connect(), await connect()
    for index in range(BURST):
        gone.nbd.write(index * BLOCK, OLD)
    gone.nbd.disconnect()
    await gone.send()
    gone.half_close()
    assert (await other.reply(other.nbd.write(BURST * BLOCK, NEW))).error == 0
    await eventually(lambda: backend.volumes["data"].connections == 1)
    received = b""
    while data := await asyncio.get_running_loop().sock_recv(gone.sock, 1 << 16):
        received += data
    assert len(received) == BURST * SIMPLE_REPLY.size
    assert backend.volumes["data"].data[: BURST * BLOCK] == OLD * BURST


async def test_a_stop_finds_out_that_a_client_has_said_goodbye(
    connect: Connect, backend: MemoryBackend, listeners: Listeners
) -> None:
    """In the turn of the loop in which that came, so that nothing of it was received."""
    gone = await connect()
    for index in range(SOME):
        gone.nbd.write(index * BLOCK, OLD)
    gone.nbd.disconnect()
    await gone.send()
    gone.close()
    for connection in list(listeners.server.connections):
        connection.stop()
    await eventually(lambda: backend.volumes["data"].connections == 0)
    assert backend.volumes["data"].data[: SOME * BLOCK] == OLD * SOME
