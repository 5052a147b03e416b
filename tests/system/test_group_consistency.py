"""Sixteen pairs on three controllers, and dependent writers over all of them.

A group suspend is one point in time. Other orders of the same commands are not.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from duplexd.canary.record import Placement
from duplexd.client import Client
from duplexd.limits import HOLD_SECONDS_MAX
from tests.support.by_hand import ByHand
from tests.support.cluster import THREE, Cluster, spread
from tests.support.daemon import PATIENCE_SECONDS
from tests.support.group_writers import GroupWriters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from duplexd.canary.checker import Findings

PLACEMENT = Placement(writers=8, volumes=16, slots=2)
WRONG_SUSPENDS = 8
RECORDS_BETWEEN = 100
END_OF_TIME = 1 << 62  # of the writers' clock
GOING_ROUND = (
    PLACEMENT.writers + 1
) * PLACEMENT.period  # records; no writer can have been left out then
PAUSE_S = 0.001  # of a writer after each record: the machine has three daemons to run, too

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, spread(PLACEMENT.volumes)) as cluster:
        yield cluster


@pytest.mark.parametrize("suspends", [50, pytest.param(500, marks=pytest.mark.long)])
async def test_every_group_suspend_under_dependent_writers_is_consistent(
    cluster: Cluster, suspends: int
) -> None:
    """Each is consistent on every controller, and holds writes only briefly."""
    groups = cluster.write_groups({"db": cluster.members}, HOLD_SECONDS_MAX)
    points, waits = set(), []
    async with (
        Client.open(groups) as client,
        GroupWriters(cluster, cluster.members, PLACEMENT, PAUSE_S) as writers,
    ):
        for number in range(suspends):
            await writers.write(RECORDS_BETWEEN)
            result, taken = await writers.during(client.suspend("db", tag=f"cut {number}"))
            findings = await writers.grade(taken)
            assert findings.consistent, (number, findings)
            assert result.verdict == "consistent", (number, result)
            assert set(cluster.cut_states(result.cut).values()) == {"consistent"}
            assert not result.untold
            assert findings.records == PLACEMENT.writers * PLACEMENT.period or number == 0
            points.add(tuple(result.controllers[name] for name in THREE))
            waits.append(result.hold.seconds_max)
            await (
                writers.write(RECORDS_BETWEEN) if number else writers.go_round()
            )  # they continue while the secondaries do not change
            assert (await writers.grade(taken)).consistent, "a suspended secondary moved"
            assert (await client.resync("db", wait=True)).ok
        assert writers.lost_connections == 0
    waits.sort()
    print(
        f"{suspends} suspends: writes waited {waits[len(waits) // 2] * 1e3:.1f} ms in"
        f" the median, {waits[-1] * 1e3:.1f} ms at most"
    )
    assert len(points) == suspends, "some cuts are of one point"


async def suspended(
    cluster: Cluster, writers: GroupWriters, suspend: Callable[[], None]
) -> Findings:
    """The checker's findings on the secondaries after this; all pairs are DUPLEX again then."""
    await writers.write(300)
    _, taken = await writers.during(asyncio.to_thread(suspend))
    findings = await writers.grade(taken)
    await writers.write(PLACEMENT.period)
    await asyncio.gather(*(asyncio.to_thread(cluster.resync, name) for name in THREE))
    return findings


def wait_for(true: Callable[[], bool]) -> None:
    """In a thread, while the writers continue."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def under_way(writers: GroupWriters) -> list[str]:
    """The controller whose reply each writer waits for at this moment, or ""."""
    history = writers.workload.history
    every = range(history.writers)
    numbers = [history.issued_before(writer, END_OF_TIME) for writer in every]
    done = [history.acknowledged_before(writer, END_OF_TIME) for writer in every]
    return [
        writers.members[PLACEMENT.place(writer, number).volume].controller
        if number > done[writer]
        else ""
        for writer, number in enumerate(numbers)
    ]


async def broken_by(cluster: Cluster, suspend: Callable[[GroupWriters], None]) -> int:
    """How many dependencies are broken in some suspends of this kind.

    Nothing else is broken: each controller by itself is right.
    """
    broken = 0
    async with GroupWriters(cluster, cluster.members, PLACEMENT, PAUSE_S) as writers:
        for _ in range(WRONG_SUSPENDS):
            findings = await suspended(cluster, writers, lambda: suspend(writers))
            assert (findings.torn, findings.missing, findings.too_new) == (0, 0, 0), findings
            broken += findings.broken
    print(f"{broken} broken dependencies in {WRONG_SUSPENDS} suspends")
    return broken


async def test_suspending_one_controller_after_the_other_breaks_dependencies(
    cluster: Cluster,
) -> None:
    """Between two suspends the writers write to every controller."""

    def naive(writers: GroupWriters) -> None:
        for name in THREE:
            cluster.ask(name, "POST", "/v1/suspend", {"targets": ["here"]})
            wanted = writers.workload.history.acknowledged + GOING_ROUND
            wait_for(lambda: writers.workload.history.acknowledged > wanted)  # noqa: B023

    assert await broken_by(cluster, naive) > WRONG_SUSPENDS


async def test_opening_a_gate_before_the_last_is_closed_breaks_dependencies(
    cluster: Cluster,
) -> None:
    """Each controller is cut while it is held, and votes READY in the end.

    Only the order is wrong: while all writers waited at one gate, some passed the other.
    """

    def hasty(writers: GroupWriters) -> None:
        with ByHand(cluster) as hand:
            hand.close("alpha")
            wait_for(lambda: set(under_way(writers)) == {"alpha"})
            hand.close("gamma")
            hand.cut("alpha")
            assert hand.open("alpha")["state"] == "ready"
            wait_for(lambda: "gamma" in under_way(writers))  # they come to it by way of beta
            hand.close("beta")
            for name in ("beta", "gamma"):
                hand.cut(name)
                assert hand.open(name)["state"] == "ready"

    assert await broken_by(cluster, hasty) > 0


async def test_close_all_cut_all_open_all_breaks_no_dependency(cluster: Cluster) -> None:
    def in_order(_: GroupWriters) -> None:
        with ByHand(cluster) as hand:
            for step in (hand.close, hand.cut, hand.open, hand.agree):
                for name in THREE:
                    step(name)

    assert await broken_by(cluster, in_order) == 0
