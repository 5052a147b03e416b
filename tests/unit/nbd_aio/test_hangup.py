"""Sockets that are watched for their other side to close."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

from duplexd.nbd_aio.hangup import AT_ONCE_MAX, HangupWatch


async def test_of_many_that_hang_up_at_once_a_few_are_called_in_a_turn() -> None:
    """What is done for each may take milliseconds."""
    watch, pairs = HangupWatch(asyncio.get_running_loop()), list[tuple[socket.socket, ...]]()
    called: list[int] = []
    for number in range(3 * AT_ONCE_MAX):
        ours, theirs = socket.socketpair()
        pairs.append((ours, theirs))
        watch.watch(ours.fileno(), partial(called.append, number))
    for _ours, theirs in pairs:
        theirs.close()
    async with asyncio.timeout(10):
        while len(called) < len(pairs):
            had = len(called)
            await asyncio.sleep(0)
            assert len(called) <= had + AT_ONCE_MAX
    assert sorted(called) == list(range(len(pairs)))
    watch.close()
    for ours, _theirs in pairs:
        ours.close()
