"""Marks of three controllers under dependent writers: each one that is called consistent is one
point in time, whatever is killed meanwhile.

What the volumes held at a mark is read from the journals alone (tests/support/marked.py).
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.canary.checker import check
from duplexd.canary.record import Placement
from duplexd.client import Client
from duplexd.limits import HOLD_SECONDS_MAX
from tests.support.cluster import THREE, Cluster, spread
from tests.support.daemon import ROOT, environment
from tests.support.group_writers import GroupWriters, Taken
from tests.support.marked import images_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from duplexd.canary.checker import Findings

PLACEMENT = Placement(writers=6, volumes=9, slots=2)
PAUSE_S = 0.002
MILLISECONDS = 1000

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, spread(PLACEMENT.volumes), journal_size="64MiB") as cluster:
        yield cluster


async def graded(
    cluster: Cluster,
    writers: GroupWriters,
    marks: list[dict[str, int]],
    taken: list[Taken],
) -> list[Findings]:
    """What the checker says of the contents at each of these marks."""
    images = await asyncio.to_thread(
        images_at, cluster, writers.members, marks, PLACEMENT.volume_bytes
    )
    history = writers.workload.history
    return [
        check(PLACEMENT, each, history, during.asked, during.done)
        for each, during in zip(images, taken, strict=True)
    ]


@pytest.mark.parametrize(
    ("marks", "pause_s"),
    [(25, 0.0), pytest.param(600, 1.0, marks=pytest.mark.long)],
)
async def test_every_mark_under_dependent_writers_is_consistent(
    cluster: Cluster, marks: int, pause_s: float
) -> None:
    """And no pair leaves DUPLEX for it. That the checker would find one that is not is seen at
    marks that each controller makes for itself.
    """
    groups = cluster.write_groups({"db": cluster.members}, HOLD_SECONDS_MAX)
    made, taken, waits = [], [], []
    async with (
        Client.open(groups) as client,
        GroupWriters(cluster, cluster.members, PLACEMENT, PAUSE_S) as writers,
    ):
        await writers.go_round()
        for number in range(marks):
            await writers.write(5)
            await asyncio.sleep(pause_s)
            result, during = await writers.during(client.marks.make("db", tag=str(number)))
            assert (result.verdict, result.untold) == ("consistent", []), (number, result)
            made.append(result.controllers)
            taken.append(during)
            waits.append(result.hold)
        assert {volume["state"] for volume in (await client.status("db")).volumes} == {"DUPLEX"}
        kept = (await client.marks.points("db")).points
        assert [point.tag for point in kept] == [str(number) for number in range(marks)]
        assert {(point.kind, point.verdict) for point in kept} == {("mark", "consistent")}
        assert (await client.cuts("db")).cuts == []
        for number, findings in enumerate(await graded(cluster, writers, made, taken)):
            assert findings.consistent, (number, findings)
            assert findings.records == PLACEMENT.writers * PLACEMENT.period
        wrong = await one_controller_after_the_other(cluster, writers)
        apart = await graded(cluster, writers, *wrong)
        assert not all(each.consistent for each in apart)
        assert writers.lost_connections == 0
    longest = sorted(hold.seconds_max for hold in waits)
    p99 = sorted(hold.p99_s for hold in waits if hold.writes_held)
    print(
        f"{marks} marks: writes that were held waited {p99[len(p99) // 2] * MILLISECONDS:.1f} ms"
        f" (p99 of the median mark), {longest[-1] * MILLISECONDS:.1f} ms at most"
    )


async def one_controller_after_the_other(
    cluster: Cluster, writers: GroupWriters
) -> tuple[list[dict[str, int]], list[Taken]]:
    """Eight times three marks that are each good, and are no point of all three controllers."""
    made, taken = [], []

    async def one_by_one() -> dict[str, int]:
        numbers = {}
        for name in THREE:
            answer = await asyncio.to_thread(
                cluster.ask, name, "POST", "/v1/marks", {"targets": ["here"]}
            )
            numbers[name] = answer["sequence"]
            await writers.write(20)
        return numbers

    for _ in range(8):
        numbers, during = await writers.during(one_by_one())
        made.append(numbers)
        taken.append(during)
    return made, taken


def marker(groups: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.mark_run", str(groups), "db"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    )


def known(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """What each controller says of each mark."""
    found: dict[str, dict[str, Any]] = {}
    for name in THREE:
        for row in cluster.ask(name, "GET", "/v1/points")["points"]:
            if row["kind"] == "mark":
                found.setdefault(row["id"], {})[name] = row
    return found


def wait_for_marks(process: subprocess.Popen[str], count: int) -> None:
    assert process.stdout is not None
    for _ in range(count):
        assert process.stdout.readline() == "marked\n"


@pytest.mark.parametrize(
    "rounds", [2, pytest.param(60, marks=pytest.mark.long)], ids=["few", "many"]
)
async def test_kills_of_members_and_coordinators_make_no_mark_consistent_that_is_not(
    cluster: Cluster, rounds: int
) -> None:
    groups = cluster.write_groups({"db": cluster.members}, 1.0)
    rng = random.Random(7)
    async with GroupWriters(cluster, cluster.members, PLACEMENT, PAUSE_S) as writers:
        await writers.go_round()
        begun = writers.workload.history.tick()
        for number in range(rounds):
            with marker(groups) as process:
                try:
                    await asyncio.to_thread(wait_for_marks, process, 3)
                    await asyncio.sleep(rng.random() * 0.02)  # anywhere in the next mark
                    if number % 2:
                        name = rng.choice(THREE)
                        cluster[name].kill()
                        await asyncio.to_thread(cluster[name].start)
                        await asyncio.to_thread(wait_for_marks, process, 3)
                finally:
                    process.kill()
            await writers.write(PLACEMENT.period)  # no gate stays closed
        async with Client.open(groups) as client:
            await client.settle("db")
        marks = known(cluster)
        over = writers.workload.history.tick()
        for mark, rows in marks.items():
            assert len({row["verdict"] for row in rows.values()} - {None}) <= 1, (mark, rows)
        good = {
            mark: {name: row["sequence"] for name, row in rows.items()}
            for mark, rows in marks.items()
            if "consistent" in {row["verdict"] for row in rows.values()}
        }
        assert all(numbers.keys() == set(THREE) for numbers in good.values())
        assert len(good) >= 3 * rounds
        taken = [Taken(begun, over)] * len(good)
        for mark, findings in zip(
            good, await graded(cluster, writers, list(good.values()), taken), strict=True
        ):
            assert findings.consistent, (mark, findings)
    states = [row["verdict"] for rows in marks.values() for row in rows.values()]
    print(json.dumps({str(state): states.count(state) for state in set(states)}))
    assert None not in states, "settling left one in doubt"
