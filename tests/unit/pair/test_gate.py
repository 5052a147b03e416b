"""Leases: every state with every event, as the table in the docstring says."""

from __future__ import annotations

import asyncio
import re

import pytest

from duplexd.pair import gate
from duplexd.pair.gate import AFTER, HELD, LOST, RELEASED, Lease
from duplexd.pair.pair import Pair

REASONS = (gate.BY_OWNER, gate.BY_SUSPEND, gate.DEADLINE, gate.OWNER_GONE, gate.STOPPING)


def documented() -> dict[tuple[str, str], str]:
    """`(state, event) -> next` of the docstring."""
    rows = re.findall(r"^([A-Z]+) {2,}(\w+(?: \w+)*) {2,}([A-Z]+)", str(gate.__doc__), re.MULTILINE)
    return {(before.lower(), event): after.lower() for before, event, after in rows}


def expected(before: str, reason: str) -> str:
    table = documented()
    return table.get((before, reason)) or table[before, "any"]


def lease(ended: asyncio.Future[str] | None = None) -> Lease:
    future = ended or asyncio.get_running_loop().create_future()
    return Lease("id", [Pair(1, "data", 4096), Pair(2, "wal", 4096)], "me", 2.0, 100.0, future)


def test_the_docstring_is_the_table() -> None:
    assert {event: after for (before, event), after in documented().items() if before == HELD} == AFTER
    assert {before for before, _event in documented()} == {HELD, RELEASED, LOST}
    assert set(REASONS) == set(AFTER)


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("first", [None, *REASONS])
async def test_every_event_in_every_state(first: str | None, reason: str) -> None:
    held = lease()
    if first is not None:
        held.end(first)
    before = held.state
    assert held.end(reason) == (before == HELD)
    assert held.state == expected(before, reason)
    assert held.lost == (held.state == LOST)
    assert await held.ended == (first or reason), "the first end is the one that counts"


async def test_it_knows_its_volumes_and_its_deadline() -> None:
    held = lease()
    assert (held.volumes, held.deadline, held.state) == (["data", "wal"], 102.0, HELD)


@pytest.mark.parametrize("reason", REASONS)
async def test_its_timer_is_stopped_once(reason: str) -> None:
    stopped: list[str] = []
    held = lease()
    held.timer = lambda: stopped.append("timer")
    held.end(reason)
    held.end(reason)
    assert stopped == ["timer"]


async def test_an_owner_that_waits_no_more_is_no_trouble() -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    future.cancel()
    assert lease(future).end(gate.DEADLINE)
