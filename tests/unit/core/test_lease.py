"""Leases: every state with every event, as the table says."""

from __future__ import annotations

import asyncio

import pytest

from duplexd.core.lease import (
    ABORTED,
    BY_OWNER,
    BY_SUSPEND,
    DEADLINE,
    HELD,
    LOST,
    OWNER_GONE,
    REASONS,
    RELEASED,
    STOPPING,
    TRANSITIONS,
    Lease,
)
from duplexd.core.pair import Pair


def lease(ended: asyncio.Future[str] | None = None) -> Lease:
    return Lease("id", [Pair(1, "data", 4096), Pair(2, "wal", 4096)], "me", 2.0, 100.0, ended)


def test_the_owners_will_releases_and_all_else_loses() -> None:
    assert {reason for _, reason in TRANSITIONS} == {
        BY_OWNER,
        BY_SUSPEND,
        DEADLINE,
        OWNER_GONE,
        STOPPING,
        ABORTED,
    }
    assert {state for state, _ in TRANSITIONS} == {HELD}
    assert {reason for (_, reason), after in TRANSITIONS.items() if after == RELEASED} == {
        BY_OWNER,
        BY_SUSPEND,
    }
    assert set(TRANSITIONS.values()) == {RELEASED, LOST}


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("first", [None, *REASONS])
async def test_every_event_in_every_state(first: str | None, reason: str) -> None:
    held = lease(asyncio.get_running_loop().create_future())
    if first is not None:
        held.end(first)
    before = held.state
    assert held.end(reason) == (before == HELD)
    assert held.state == TRANSITIONS.get((before, reason), before)
    assert held.lost == (held.state == LOST)
    assert await held.ended == (first or reason), "the first end is the one that counts"


def test_it_knows_its_volumes_and_its_deadline() -> None:
    held = lease()
    assert (held.volumes, held.deadline, held.state) == (["data", "wal"], 102.0, HELD)


@pytest.mark.parametrize("reason", REASONS)
def test_its_timer_is_stopped_once(reason: str) -> None:
    stopped: list[str] = []
    held = lease()
    held.timer = lambda: stopped.append("timer")
    held.end(reason)
    held.end(reason)
    assert stopped == ["timer"]


async def test_an_owner_that_waits_no_more_is_no_trouble() -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    future.cancel()
    assert lease(future).end(DEADLINE)
