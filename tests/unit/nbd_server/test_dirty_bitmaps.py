"""BLOCK_STATUS of what changed since a cut, over real sockets: alone and beside base:allocation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.limits import NbdLimits
from duplexd.nbd import constants as c
from tests.support.nbd_chunks import ERROR
from tests.unit.nbd_server.chunk_peer import ChunkPeer, status_payload
from tests.unit.nbd_server.peer import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from duplexd.nbd_server.listeners import Listeners
    from tests.unit.nbd_server.memory_backend import MemoryBackend
    from tests.unit.nbd_server.peer import Peer

    Chunky = Callable[..., Awaitable[ChunkPeer]]

MIB = 1 << 20
ALLOCATION = c.CONTEXT_ALLOCATION
BITMAP = c.CONTEXT_DIRTY_BITMAP
MONDAY, TUESDAY = BITMAP + "monday", BITMAP + "tuesday"
HOLE = c.STATE_HOLE | c.STATE_ZERO


@pytest.fixture(params=["structured", "extended"])
def extended(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "extended")


@pytest.fixture
def chunky(
    connect: Callable[..., Awaitable[Peer]], backend: MemoryBackend, extended: bool
) -> Chunky:
    """Connects a client that negotiated chunks, to a volume with two bitmaps."""
    volume = backend.volumes["data"]
    volume.dirty = {"tuesday": [(3 * MIB, MIB)], "monday": [(0, MIB), (3 * MIB, MIB)]}
    volume.holes = [(MIB, MIB)]

    async def connect_one(*contexts: str) -> ChunkPeer:
        peer = ChunkPeer(await connect(None), extended)
        await peer.go(list(contexts))
        return peer

    return connect_one


async def test_what_changed_is_dirty_and_the_rest_is_not(chunky: Chunky) -> None:
    peer = await chunky(MONDAY)
    (chunk,) = await peer.ask(c.CMD_BLOCK_STATUS, 512, 4 * MIB)
    assert chunk.statuses == (2, [(MIB - 512, 1), (2 * MIB, 0), (MIB, 1), (512, 0)])


async def test_what_has_not_changed_is_a_hole_of_unknown_content(chunky: Chunky) -> None:
    """Not a zero: it is what the earlier image has."""
    peer = await chunky(c.CONTEXT_UNCHANGED + "monday", MONDAY)
    unchanged, dirty = await peer.ask(c.CMD_BLOCK_STATUS, 512, 4 * MIB)
    hole = c.STATE_HOLE
    assert unchanged.statuses == (2, [(MIB - 512, 0), (2 * MIB, hole), (MIB, 0), (512, hole)])
    assert dirty.statuses == (3, [(MIB - 512, 1), (2 * MIB, 0), (MIB, 1), (512, 0)])


async def test_contexts_are_answered_in_chunks_of_one_reply(
    chunky: Chunky, backend: MemoryBackend
) -> None:
    peer = await chunky(TUESDAY, ALLOCATION, MONDAY)
    chunks = await peer.ask(c.CMD_BLOCK_STATUS, 0, 4 * MIB)
    assert {number: states for chunk in chunks for number, states in [chunk.statuses]} == {
        1: [(MIB, 0), (MIB, HOLE), (2 * MIB, 0)],
        2: [(3 * MIB, 0), (MIB, 1)],
        3: [(MIB, 1), (2 * MIB, 0), (MIB, 1)],
    }
    assert [chunk.done for chunk in chunks] == [False, False, True]
    assert [name for name, _ in backend.asked_bitmaps] == ["tuesday", "monday"]


async def test_one_extent_of_each_context(chunky: Chunky, backend: MemoryBackend) -> None:
    peer = await chunky(ALLOCATION, MONDAY)
    chunks = await peer.ask(c.CMD_BLOCK_STATUS, MIB, 3 * MIB, c.CMD_FLAG_REQ_ONE)
    assert [chunk.statuses for chunk in chunks] == [(1, [(MIB, HOLE)]), (2, [(2 * MIB, 0)])]
    assert (backend.asked_one, backend.asked_bitmaps) == ([True], [("monday", 1)])


async def test_nothing_is_asked_of_a_context_that_was_not_selected(
    chunky: Chunky, backend: MemoryBackend
) -> None:
    await (await chunky(MONDAY)).ask(c.CMD_BLOCK_STATUS, 0, 4 * MIB)
    assert backend.asked_one == []
    await (await chunky(ALLOCATION)).ask(c.CMD_BLOCK_STATUS, 0, 4 * MIB)
    assert len(backend.asked_bitmaps) == 1


@pytest.mark.parametrize("extended", ["extended"], indirect=True)
@pytest.mark.parametrize(
    ("numbers", "answered"), [((3,), [3]), ((3, 1), [3, 1]), ((1, 2, 3), [1, 2, 3])]
)
async def test_a_request_may_choose_among_the_contexts(
    chunky: Chunky, numbers: tuple[int, ...], answered: list[int]
) -> None:
    peer = await chunky(ALLOCATION, MONDAY, TUESDAY)
    payload = status_payload(4 * MIB, *numbers)
    chunks = await peer.ask(c.CMD_BLOCK_STATUS, 0, 0, payload=payload)
    assert [chunk.statuses[0] for chunk in chunks] == answered
    assert [chunk.done for chunk in chunks] == [number == answered[-1] for number in answered]


@pytest.mark.parametrize("extended", ["extended"], indirect=True)
async def test_a_request_for_a_context_that_was_not_selected_is_refused(chunky: Chunky) -> None:
    peer = await chunky(ALLOCATION, MONDAY)
    (chunk,) = await peer.ask(c.CMD_BLOCK_STATUS, 0, 0, payload=status_payload(4 * MIB, 2, 3))
    assert (chunk.kind, chunk.error) == (ERROR, c.EINVAL)


@pytest.mark.parametrize(("selected", "each"), [(1, 256), (2, 128), (16, 16)])
async def test_bitmaps_share_the_extents_of_an_answer(
    chunky: Chunky, backend: MemoryBackend, selected: int, each: int
) -> None:
    names = [f"cut{number}" for number in range(selected)]
    backend.volumes["data"].dirty = {
        name: [(at << 13, 4096) for at in range(1000)] for name in names
    }
    assert NbdLimits().bitmap_extents_max == 256
    peer = await chunky(*[BITMAP + name for name in names])
    chunks = await peer.ask(c.CMD_BLOCK_STATUS, 0, 32 * MIB)
    assert [len(chunk.statuses[1]) for chunk in chunks] == [each] * selected


async def test_a_client_that_goes_while_it_waits_leaves_nothing(
    chunky: Chunky, listeners: Listeners
) -> None:
    peer = await chunky(ALLOCATION, MONDAY, TUESDAY)
    for _ in range(100):
        await peer.send(c.CMD_BLOCK_STATUS, 0, 4 * MIB)
    peer.peer.close()
    await eventually(lambda: not listeners.server.connections)
    await eventually(lambda: listeners.server.reading.used == 0)
