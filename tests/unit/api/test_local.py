"""How often a user may connect on the Unix socket, and that all others go on."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from duplexd.api.local import USERS_MAX, Local, Rates
from duplexd.limits import ApiLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

ONCE = ApiLimits(user_connections_burst=1.0, user_connections_per_second=1e-9)


class Greeting(asyncio.Protocol):
    """Says that it was made, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


@asynccontextmanager
async def listening(
    path: Path, owns: bool, factory: Callable[[], asyncio.Protocol] = Greeting
) -> AsyncIterator[None]:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    sock.setblocking(False)
    local = Local(sock, factory, lambda _uid: owns, ONCE)
    local.start()
    yield
    await local.close()


async def answer(path: Path) -> bytes:
    """All that a client gets."""
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            return await reader.read()
        finally:
            writer.close()


async def test_root_and_the_daemons_user_connect_as_often_as_they_like(tmp_path: Path) -> None:
    async with listening(path := tmp_path / "c.sock", owns=True):
        assert [await answer(path) for _ in range(4)] == [b"hello"] * 4


async def test_others_are_closed_at_once_beyond_their_rate(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with listening(path := tmp_path / "c.sock", owns=False):
            assert [await answer(path) for _ in range(3)] == [b"hello", b"", b""]
    assert [(each["event"], each["uid"]) for each in logs][:1] == [
        ("a user connects too often", os.geteuid())
    ]


async def test_a_connection_that_cannot_be_made_costs_the_next_client_nothing(
    tmp_path: Path,
) -> None:
    made: list[int] = []

    def factory() -> asyncio.Protocol:
        made.append(len(made))
        if len(made) == 1:
            raise RuntimeError("planted")
        return Greeting()

    with capture_logs() as logs:
        async with listening(path := tmp_path / "c.sock", True, factory):
            assert [await answer(path), await answer(path)] == [b"", b"hello"]
    assert "unexpected error of a new control connection" in logs[0]["event"]


def test_a_user_has_a_burst_and_then_so_many_a_second() -> None:
    rates = Rates(burst=3, per_second=2)
    assert [rates.allow(7, 0.0) for _ in range(4)] == [True] * 3 + [False]
    assert [rates.allow(7, 0.5), rates.allow(7, 0.5)] == [True, False]
    assert [rates.allow(7, 100.0) for _ in range(4)] == [True] * 3 + [False]


def test_one_user_costs_another_nothing() -> None:
    rates = Rates(burst=1, per_second=1)
    assert [rates.allow(uid, 0.0) for uid in (7, 7, 8)] == [True, False, True]


def test_who_asks_in_vain_is_not_kept_out_for_longer() -> None:
    rates = Rates(burst=1, per_second=1)
    assert rates.allow(7, 0.0)
    assert not any(rates.allow(7, at / 10) for at in range(1, 9))
    assert rates.allow(7, 1.01)


def test_users_that_are_remembered_are_bounded() -> None:
    rates = Rates(burst=1, per_second=1)
    for uid in range(2 * USERS_MAX):
        rates.allow(uid, 0.0)
    assert rates.allow(0, 0.0), "it was forgotten"
    assert not rates.allow(2 * USERS_MAX - 1, 0.0)
