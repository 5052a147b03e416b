"""Random bytes, and good conversations with random damage, on the pure halves: only documented
errors, never another exception.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import pytest

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.client import NbdClient, RefusedError
from duplexd.nbd.handshake import (
    CLIENT_FLAGS,
    CLOSED,
    HAGGLING,
    SECURING,
    SKIPPING,
    TRANSMISSION,
    Handshake,
)
from duplexd.nbd.messages import ProtocolError
from duplexd.nbd.replies import STRUCTURED
from duplexd.nbd.transmission import Receiver, refusal
from tests.unit.nbd.wire import (
    ALL_OFFERS,
    FakeExports,
    MemoryServer,
    answered,
    haggle,
    put,
)

if TYPE_CHECKING:
    from duplexd.nbd.offers import Tls

SEEDS = range(300)
WIRE_ERRORS = {0, c.EPERM, c.EIO, c.ENOMEM, c.EINVAL, c.ENOSPC, c.EOVERFLOW, c.ENOTSUP, c.ESHUTDOWN}
GOOD_HANDSHAKE = (
    m.CLIENT_FLAGS.pack(3)
    + m.option(c.OPT_LIST)
    + m.option(c.OPT_STRUCTURED_REPLY)
    + m.option(c.OPT_LIST_META_CONTEXT, m.context_data("data", ["base:", "x:y"]))
    + m.option(c.OPT_EXTENDED_HEADERS)
    + m.option(c.OPT_SET_META_CONTEXT, m.context_data("data", ["base:allocation"]))
    + m.option(c.OPT_INFO, m.go_data("data", [3]))
    + m.option(c.OPT_GO, m.go_data("data", [1, 2, 3]))
)
GOOD_REQUESTS = b"".join(
    m.request(flags, command, cookie, cookie * 512, 512)
    + (bytes(512) if command == c.CMD_WRITE else b"")
    for cookie, (flags, command) in enumerate(
        [(0, 0), (0, 1), (1, 1), (0, 3), (2, 6), (1, 4), (0, 0)]
    )
)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, a piece taken out or doubled."""
    result = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        where = chance.randrange(len(result))
        kind = chance.randrange(3)
        if kind == 0:
            result[where] = chance.randrange(256)
        elif kind == 1:
            del result[where : where + chance.randrange(1, 8)]
        else:
            result[where:where] = result[where : where + chance.randrange(1, 40)]
        if not result:
            break
    return bytes(result)


def input_of(good: bytes, seed: int) -> bytes:
    """Noise for even seeds, damage for odd ones."""
    chance = random.Random(seed)
    return chance.randbytes(chance.randrange(1, 3000)) if seed % 2 == 0 else damaged(good, chance)


def check_handshake(data: bytes, sizes: list[int], tls: Tls) -> Handshake:
    """Nothing is raised, little is kept, and state, reason and export agree."""
    handshake, answer = haggle(data, sizes, offers=ALL_OFFERS, tls=tls)
    assert handshake.state in {CLIENT_FLAGS, HAGGLING, SKIPPING, SECURING, TRANSMISSION, CLOSED}
    assert len(answer) < 1 << 20
    assert bool(handshake.reason) == (handshake.state == CLOSED)
    assert (handshake.export is not None) == (handshake.state == TRANSMISSION)
    assert handshake.wants_tls == (handshake.state == SECURING)
    if handshake.state == SKIPPING:
        assert not handshake.rest()
    if handshake.export is not None:
        agreed = handshake.negotiated
        assert agreed.structured or not (agreed.extended or agreed.contexts)
        assert tls != "required"
    return handshake


TLS_MODES: list[Tls] = ["off", "optional", "required"]


@pytest.mark.parametrize("seed", SEEDS)
def test_handshake(seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.randrange(1, 50) for _ in range(20)]
    check_handshake(input_of(GOOD_HANDSHAKE, seed), sizes, chance.choice(TLS_MODES))


@pytest.mark.parametrize("seed", SEEDS)
def test_haggling_noise_after_good_flags(seed: int) -> None:
    chance = random.Random(seed)
    data = m.CLIENT_FLAGS.pack(3) + b"".join(
        m.option(chance.randrange(14), chance.randbytes(chance.randrange(30))) for _ in range(50)
    )
    check_handshake(data, [], chance.choice(TLS_MODES))


@pytest.mark.parametrize("tls", TLS_MODES)
def test_the_undamaged_handshake_is_a_good_one(tls: Tls) -> None:
    state = HAGGLING if tls == "required" else TRANSMISSION
    assert check_handshake(GOOD_HANDSHAKE, [], tls).state == state


@pytest.mark.parametrize("seed", SEEDS)
def test_transmission(seed: int) -> None:
    receiver = Receiver(0)
    for flags, command, _cookie, offset, length, payload in put(
        receiver, input_of(GOOD_REQUESTS, seed)
    ):
        error = refusal(flags, command, offset, length, 1 << 20, 0)
        assert error in WIRE_ERRORS
        if command == c.CMD_WRITE:
            assert payload is None or len(payload) == length
            assert payload is not None or error
        else:
            assert payload is None
    assert len(receiver.buffer()) > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_client(seed: int) -> None:
    server = MemoryServer()
    good = server.greeting() + server.receive(
        m.CLIENT_FLAGS.pack(3) + m.option(c.OPT_GO, m.go_data("data", [3]))
    )
    client = NbdClient("data")
    with contextlib.suppress(ProtocolError, RefusedError):
        client.receive(input_of(good, seed))
        if client.ready:
            client.read(0, 100)
            client.receive(random.Random(seed).randbytes(200))


CHUNKS = b"".join(
    [
        STRUCTURED.data_head(1, 0, 0, 60, False) + bytes(60),
        STRUCTURED.hole(1, 0, 60, 40, True),
        STRUCTURED.status(2, 0, 1, [(4096, 0), (8192, 3)], True),
        STRUCTURED.error(3, 0, c.EIO),
    ]
)


@pytest.mark.parametrize("seed", SEEDS)
def test_client_with_structured_replies(seed: int) -> None:
    client = NbdClient("data", structured=True, contexts=[c.CONTEXT_ALLOCATION])
    server = Handshake(FakeExports(), 100, offers=ALL_OFFERS)
    answer = server.greeting()
    while answer:
        client.receive(answer)
        answer = answered(server, client.data_to_send())
    lengths = {client.read(0, 100): 100, client.block_status(0, 10_000): 0, client.read(0, 9): 9}
    with contextlib.suppress(ProtocolError):
        for reply in client.receive(input_of(CHUNKS, seed)):
            assert len(reply.data) == (0 if reply.error else lengths[reply.cookie])
            assert all(extents for extents in reply.statuses.values())
