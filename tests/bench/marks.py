"""What writers notice of marks: one a second over three controllers, under dependent writers.

The pause is measured at both ends: by the daemons, the longest that a write waited at a closed gate
for each mark; by the writers, the longest wait for a reply while a mark is made, beside the longest
in as long a time right before it. Who marks is in the process of the writers: what it computes is
in their waits, too.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import uvloop

from duplexd.canary.record import Placement
from duplexd.client import Client
from tests.bench.controllers import WINDOW_SECONDS_MIN, TimedWriters, figures
from tests.bench.parts import Bench, Part
from tests.bench.rows import OURS, Goal, Measure, Measured, Row
from tests.support.cluster import Cluster, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKS, MARKS_SMALL = 60, 3
EVERY_SECONDS = 1.0
PLACEMENT = Placement(writers=6, volumes=9, slots=2)
PAUSE = Row("p99 of the pause at marks, 3 controllers", "ms", (Goal(5),), limit=True)
WAIT = Row("p99 of the longest write at a mark, 3 controllers", "ms", (Goal(5),), limit=True)
USUAL = "without a mark"


async def _marked(bench: Bench, cluster: Cluster) -> dict[str, Measured]:
    groups = cluster.write_groups({"db": cluster.members})
    series: dict[str, list[float]] = {"pause": [], "wait": [], "usual": []}
    count = MARKS_SMALL if bench.small else MARKS
    async with (
        Client.open(groups) as client,
        TimedWriters(cluster, cluster.members, PLACEMENT) as writers,
    ):
        writers.write_on()
        await writers.go_round()
        window_s, due = WINDOW_SECONDS_MIN, time.monotonic()
        for number in range(count + 1):
            due += EVERY_SECONDS
            await asyncio.sleep(due - time.monotonic())
            writers.take_longest()
            await asyncio.sleep(window_s)
            usual_s, began = writers.take_longest(), time.monotonic()
            mark = await client.marks.make("db")
            window_s, wait_s = time.monotonic() - began, writers.take_longest()
            if mark.verdict != "consistent":
                raise RuntimeError(f"mark {mark.mark} is void: {mark.why}")
            if number:  # the first opens connections
                series["pause"].append(mark.hold.seconds_max * 1e3)
                series["wait"].append(wait_s * 1e3)
                series["usual"].append(usual_s * 1e3)
    found = {name: figures(values) for name, values in series.items()}
    for name, each in found.items():
        bench.say(f"{count} marks, {name}: " + ", ".join(f"{k} {v:.2f}" for k, v in each.items()))
    return {
        PAUSE.name: {OURS: [Measure(found["pause"]["p99"])]},
        WAIT.name: {
            OURS: [Measure(found["wait"]["p99"])],
            USUAL: [Measure(found["usual"]["p99"])],
        },
    }


def _measure(bench: Bench) -> dict[str, Measured]:
    names = spread(PLACEMENT.volumes)
    with (
        Cluster(bench.place("marks"), names, journal_size="64MiB") as cluster,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_marked(bench, cluster))


def parts() -> Iterator[Part]:
    yield Part("marks", [PAUSE, WAIT], _measure, extra=True)
