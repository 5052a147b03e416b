"""The write pause of group suspends: one controller and many, with dependent writers over all of
them.

It is measured at both ends, for each suspend the longest: by the daemons, how long a write waited
at a closed gate (one controller alone needs no gate; there it is how long the cut kept the loop);
by the writers, how long one waited for a reply during the command, beside the same without a
suspend. A single controller is also suspended by its own command: what the coordinator adds.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import uvloop

from duplexd.canary.record import Placement
from tests.bench.command import Coordinator
from tests.bench.parts import Bench, Part
from tests.bench.rows import OURS, Goal, Measure, Measured, Row
from tests.bench.servers import peak_rss_bytes
from tests.support.cluster import Cluster, Member
from tests.support.group_writers import GroupWriters

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

GROUP = "db"
WRITERS, SLOTS = 8, 4
VOLUME_SIZE = "256KiB"
WRITTEN_VOLUMES = 48  # at most, over all controllers: each writer has a connection to each of them
WARM_UP_SECONDS = 0.1
WINDOW_SECONDS_MIN = 0.05
ONE_CONTROLLER = ("suspend", "plain")


class Shape(NamedTuple):
    """So many controllers with so many volumes each, suspended together so many times."""

    controllers: int
    volumes: int
    suspends: int


SHAPES = (Shape(1, 1000, 20), Shape(3, 16, 100), Shape(16, 64, 20))
PAUSES_MS = {SHAPES[0]: 2, SHAPES[1]: 5, SHAPES[2]: 20}  # p99, at most


class TimedWriters(GroupWriters):
    """Writers that can rest, and that know how long they waited."""

    def __init__(self, cluster: Cluster, members: Sequence[Member], placement: Placement) -> None:
        super().__init__(cluster, members, placement)
        self._may_write = asyncio.Event()
        self._longest_s = 0.0
        self._waiting: dict[int, float] = {}  # since when

    def write_on(self) -> None:
        """Let them write."""
        self._may_write.set()

    def rest(self) -> None:
        """Let them begin no further write."""
        self._may_write.clear()

    def take_longest(self) -> float:
        """The longest that one of them waited for a reply since the last call, in seconds; if it
        still waits, until now.
        """
        now = time.perf_counter()
        longest_s = max([self._longest_s, *(now - since for since in self._waiting.values())])
        self._longest_s = 0.0
        self._waiting = dict.fromkeys(self._waiting, now)
        return longest_s

    async def _write(self, writer: int, volume: int, offset: int, data: bytes) -> None:
        await self._may_write.wait()
        self._waiting[writer] = time.perf_counter()
        await super()._write(writer, volume, offset, data)
        self._longest_s = max(self._longest_s, time.perf_counter() - self._waiting.pop(writer))


def measure_pause(directory: Path, shape: Shape) -> dict[str, Any]:
    """The figures of a shape, in ms; `void`: how many suspends were.

    Raises RuntimeError if one that is not is found to be broken.
    """
    names = {
        f"c{number:02}": [f"v{volume:04}" for volume in range(shape.volumes)]
        for number in range(shape.controllers)
    }
    with Cluster(directory, names, size=VOLUME_SIZE, journal_size="64MiB") as cluster:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            series, void = runner.run(_suspend_often(cluster, shape))
        rss = max(peak_rss_bytes(daemon.pid) for daemon in cluster.daemons.values())
    return {
        **shape._asdict(),
        "void": void,
        "peak_rss_bytes": rss,
        **{name: figures(values) for name, values in series.items()},
    }


async def _suspend_often(cluster: Cluster, shape: Shape) -> tuple[dict[str, list[float]], int]:
    each = min(shape.volumes, WRITTEN_VOLUMES // shape.controllers)
    written = [member for member in cluster.members if int(member.volume[1:]) < each]
    groups = cluster.write_groups({GROUP: cluster.members})
    series: dict[str, list[float]] = defaultdict(list)
    window_s, void = WINDOW_SECONDS_MIN, 0
    async with (
        Coordinator(groups, GROUP) as coordinator,
        TimedWriters(cluster, written, Placement(WRITERS, len(written), SLOTS)) as writers,
    ):
        for number in range(shape.suspends + 1):
            commands = ONE_CONTROLLER if shape.controllers == 1 else ONE_CONTROLLER[:1]
            for how in commands[:: 1 if number % 2 else -1]:
                verdict, sample = await _suspend(coordinator, writers, how, window_s)
                void += verdict != "consistent"
                window_s = max(WINDOW_SECONDS_MIN, sample["command"])
                # the first opens connections and images for the first time
                for name, seconds in sample.items() if number else ():
                    series[f"{how}_{name}_ms"].append(seconds * 1e3)
                await coordinator.resync()
        writers.write_on()
    return series, void


async def _suspend(
    coordinator: Coordinator, writers: TimedWriters, how: str, window_s: float
) -> tuple[str, dict[str, float]]:
    """One suspend: its verdict, and seconds; before it, the writers are watched for `window_s`,
    afterwards they rest.
    """
    writers.write_on()
    await asyncio.sleep(WARM_UP_SECONDS)
    writers.take_longest()
    await asyncio.sleep(window_s)
    usual_s = writers.take_longest()
    began = time.perf_counter()
    result, taken = await writers.during(coordinator.suspend(how))
    command_s = time.perf_counter() - began
    longest_s = writers.take_longest()
    writers.rest()
    findings = await writers.grade(taken)
    if result["verdict"] == "consistent" and not findings.consistent:
        raise RuntimeError(f"a suspend under load is broken: {findings}")
    phases = {
        name: result["phases"][name]
        for name in ("closing", "cutting")
        if name in result.get("phases", {})
    }
    waits = {
        "pause": result["hold"]["seconds_max"],
        "wait": longest_s,
        "usual_wait": usual_s,
        "command": command_s,
    }
    return result["verdict"], waits | phases


def figures(values: list[float]) -> dict[str, float]:
    """p50, p99 (what at most one in a hundred exceeds) and max."""
    ordered = sorted(values)
    return {"p50": median(ordered), "p99": ordered[-(len(ordered) // 100) - 1], "max": ordered[-1]}


# ------------------------------------------------------------------------------------- the rows

ROWS = {
    shape: Row(
        f"p99 of the pause, {shape.controllers} x {shape.volumes} volumes",
        "ms",
        (Goal(most),),
        limit=True,
    )
    for shape, most in PAUSES_MS.items()
}


def _measure(bench: Bench) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    for shape, row in ROWS.items():
        fewer = shape._replace(suspends=2) if bench.small else shape
        pause = measure_pause(bench.place("groups"), fewer)
        bench.say("\n    ".join(describe_pause(pause)))
        found[row.name] = {OURS: [Measure(pause["suspend_pause_ms"]["p99"])]}
    return found


def parts() -> Iterator[Part]:
    yield Part("groups", list(ROWS.values()), _measure, extra=True)


def describe_pause(pause: Mapping[str, Any]) -> list[str]:
    """Lines for one number and size of controllers."""
    first = (
        f"{pause['controllers']} x {pause['volumes']} volumes suspended {pause['suspends']} times, "
        f"{pause['void']} void, ms (p50 / p99 / max): write pause "
        f"{_three(pause['suspend_pause_ms'])} by the daemons; longest write "
        f"{_three(pause['suspend_wait_ms'])} by the clients, "
        f"{_three(pause['suspend_usual_wait_ms'])} without a suspend; "
        f"command {_three(pause['suspend_command_ms'], 0)}"
    )
    if "plain_pause_ms" not in pause:
        return [first]
    added = [
        pause[f"suspend_{name}_ms"]["p50"] - pause[f"plain_{name}_ms"]["p50"]
        for name in ("pause", "wait")
    ]
    second = (
        f"by the controller's own command: write pause {_three(pause['plain_pause_ms'])}; "
        f"longest write {_three(pause['plain_wait_ms'])}; "
        f"the coordinator adds (p50) {added[0]:+.2f}, {added[1]:+.2f}"
    )
    return [first, second]


def _three(figures: Mapping[str, float], digits: int = 2) -> str:
    return " / ".join(f"{figures[name]:.{digits}f}" for name in ("p50", "p99", "max"))
