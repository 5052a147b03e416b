"""What the daemon takes when it has many volumes: memory, and CPU time while nothing is asked of
it.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from duplexd.nbd_aio.connecting import connect
from duplexd.units import MIB, TIB
from tests.bench.loads import fio
from tests.bench.parts import Bench, Part
from tests.bench.rows import OURS, Goal, Measure, Measured, Row
from tests.bench.servers import Duplexd, cpu_s, peak_rss_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LARGE_VOLUMES = 64
LARGE_WRITTEN = 8
WRITES = 4000  # on each of them, twice
MANY_VOLUMES = 1000
MANY_WRITTEN = 16
CONNECTIONS = 100
IDLE_SECONDS = 25.0  # a checkpoint is among it
SETTLE_SECONDS = 3.0
SECONDS_MAX = 120.0

LARGE = Row("peak RSS, 64 volumes of 1 TiB under load", "MiB", (Goal(100),), limit=True)
MANY = Row("peak RSS, 1,000 volumes of 1 TiB", "MiB", (Goal(200),), limit=True)
IDLE = Row(
    "CPU while idle, 1,000 volumes and 100 connections", "% of a core", (Goal(0.5),), limit=True
)


class _Footprint(Duplexd):
    journal_bytes = 256 * MIB

    def rss(self) -> Measured:
        return {OURS: [Measure(peak_rss_bytes(self.pid) / MIB)]}


def _names(count: int) -> list[str]:
    return [f"v{number:04}" for number in range(count)]


def _write(server: Duplexd, volumes: Sequence[str]) -> None:
    options = ["--rw=randwrite", "--bs=4k", "--iodepth=32", f"--number_ios={WRITES}"]
    for volume in volumes:
        fio(server, options, SECONDS_MAX, volume)


def _large(bench: Bench) -> dict[str, Measured]:
    """Some are written at random, suspended, written again, brought back."""
    names = _names(LARGE_VOLUMES)
    with _Footprint(bench.place("large"), TIB, names) as server:
        written = names[:: LARGE_VOLUMES // LARGE_WRITTEN]
        _write(server, written)
        server.command("/v1/suspend", {"targets": ["all"]})
        _write(server, written)
        server.resync()
        return {LARGE.name: server.rss()}


def _many(bench: Bench) -> dict[str, Measured]:
    names = _names(MANY_VOLUMES)
    with _Footprint(bench.place("many"), TIB, names) as server:
        _write(server, names[:: MANY_VOLUMES // MANY_WRITTEN])
        idle = asyncio.run(_idle(server, bench))
        return {MANY.name: server.rss(), IDLE.name: {OURS: [Measure(idle)]}}


async def _idle(server: Duplexd, bench: Bench) -> float:
    """Percent of a core. What was written before is on the disk by then: to allocate blocks for it
    is no idle work, and took most of a core on one file system.
    """
    os.sync()
    async with AsyncExitStack() as stack:
        for volume in server.volumes[:CONNECTIONS]:
            uri = server.daemon.files.uri(volume)
            await stack.enter_async_context(await connect(uri))
        await asyncio.sleep(SETTLE_SECONDS)
        cpu, began = cpu_s(server.pid), time.perf_counter()
        await asyncio.sleep(IDLE_SECONDS if not bench.small else 2.0)
        return (cpu_s(server.pid) - cpu) / (time.perf_counter() - began) * 100


def parts() -> Iterator[Part]:
    yield Part("memory", [LARGE], _large)
    yield Part("many", [MANY, IDLE], _many)
