"""Sockets that are watched for their other side to close."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

from duplexd.nbd_aio.hangup import HangupWatch

MANY = 100


async def test_all_that_hang_up_at_once_are_called_before_anything_else_is_done() -> None:
    """A change of one who is called later could be done after it has come back."""
    watch, pairs = HangupWatch(asyncio.get_running_loop()), list[tuple[socket.socket, ...]]()
    called, some = list[int](), asyncio.Event()

    def gone(number: int) -> None:
        called.append(number)
        some.set()

    for number in range(MANY):
        ours, theirs = socket.socketpair()
        pairs.append((ours, theirs))
        watch.watch(ours.fileno(), partial(gone, number))
    for _ours, theirs in pairs:
        theirs.close()
    async with asyncio.timeout(10):
        await some.wait()
    assert sorted(called) == list(range(MANY))
    watch.close()
    for ours, _theirs in pairs:
        ours.close()
