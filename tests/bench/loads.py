"""Loads of requests: fio's NBD engine, and `qemu-img bench` where a flush follows every write.

Servers are prepared alike: each volume is written in order by requests of 1 MiB. That matters. On
Linux 6.16 and later ext4 keeps a large write as one large folio in the page cache, and a small
write into it is 4 times as slow. Images that a restore or a first copy has filled are cached so,
and most images are. It is done until duplexd's journal has gone round once, so that no write
of the measure is the first to a block of any file.
"""

from __future__ import annotations

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from duplexd.units import KIB, MIB
from tests.bench.parts import Bench, Part, in_turns
from tests.bench.rows import MIRROR, NBDKIT, OURS, QEMU_NBD, Goal, Measure, Measured, Row
from tests.bench.servers import JOURNAL_BYTES, SERVERS, VOLUME, cpu_s

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.servers import Server

VOLUME_BYTES = 256 * MIB
FILL_SECONDS_MAX = 300.0
FLUSHES_MIN = 20
ALL = (OURS, NBDKIT, QEMU_NBD, MIRROR)
EIGHT = tuple(f"volume{number}" for number in range(8))
_COMPLETED = re.compile(r"Run completed in ([\d.]+) seconds")


@dataclass(frozen=True)
class Load:
    """`block` bytes a request, `depth` in flight on each of `connections`. With `flush` every write
    is followed by one, and each connection has a volume of its own.
    """

    rw: str
    block: int
    depth: int = 1
    connections: int = 1
    flush: bool = False

    @property
    def unit(self) -> str:
        return "MiB/s" if self.block >= 64 * KIB else "1/s"

    def run(self, server: Server, seconds: float) -> Measure:
        """Load the server for about that long. What earlier loads left in the page cache is on the
        disk before.
        """
        server.sync()
        run = self._flushes if self.flush else self._fio
        before = cpu_s(server.pid)
        requests, elapsed_s = run(server, seconds)
        cpu_us = (cpu_s(server.pid) - before) / requests * 1e6
        rate = requests / elapsed_s
        return Measure(rate * self.block / MIB if self.unit == "MiB/s" else rate, cpu_us)

    def _fio(self, server: Server, seconds: float) -> tuple[int, float]:
        options = [f"--rw={self.rw}", f"--bs={self.block}", f"--iodepth={self.depth}"]
        options += ["--time_based", f"--runtime={seconds * 1e3:.0f}ms", "--group_reporting"]
        options += [f"--numjobs={self.connections}"]
        job = fio(server, options, 60 + seconds * 3)
        side = job["read" if "read" in self.rw else "write"]
        return side["total_ios"], side["runtime"] / 1e3

    def _flushes(self, server: Server, seconds: float) -> tuple[int, float]:
        """A short run measures how many writes fill the time."""
        probe_s = self._bench(server, FLUSHES_MIN, server.volumes[0])
        count = max(FLUSHES_MIN, int(FLUSHES_MIN * seconds / probe_s))
        with ThreadPoolExecutor(self.connections) as pool:
            volumes = server.volumes[: self.connections]
            times = list(pool.map(lambda volume: self._bench(server, count, volume), volumes))
        return count * self.connections, max(times)

    def _bench(self, server: Server, count: int, volume: str) -> float:
        command = ["qemu-img", "bench", "-f", "raw", "-t", "none", "-w", "-d", "1"]
        command += ["-c", str(count), "-s", str(self.block), "--flush-interval=1"]
        result = subprocess.run(
            [*command, server.uri(volume)], check=True, capture_output=True, text=True, timeout=300
        )
        match = _COMPLETED.search(result.stdout)
        if match is None:
            raise RuntimeError(f"qemu-img bench said {result.stdout!r}")
        return float(match[1])


def fio(
    server: Server, options: Sequence[str], seconds_max: float, volume: str = VOLUME
) -> dict[str, Any]:
    """One job over the whole volume; what fio says of it."""
    command = ["fio", "--name=bench", "--ioengine=nbd", f"--uri={server.uri(volume)}", "--thread"]
    command += [f"--size={server.size}", "--norandommap", "--randrepeat=0", *options]
    result = subprocess.run(
        [*command, "--output-format=json"],
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds_max,
    )
    job: dict[str, Any] = json.loads(result.stdout[result.stdout.index("{") :])["jobs"][0]
    if job["error"]:
        raise RuntimeError(f"fio met error {job['error']} on {server.name}")
    return job


def fill(server: Server, journal_bytes: int = JOURNAL_BYTES) -> None:
    """See above."""
    in_all = server.size * len(server.volumes)
    options = ["--rw=write", "--bs=1m", "--iodepth=8", f"--loops={journal_bytes // in_all + 1}"]
    for volume in server.volumes:
        fio(server, options, FILL_SECONDS_MAX, volume)
    server.sync()


def _unmirrored(figure: float) -> tuple[Goal, ...]:
    return (Goal(figure, NBDKIT),)


def _both(mirror: float, nbdkit: float) -> tuple[Goal, ...]:
    return Goal(mirror, MIRROR), Goal(nbdkit, NBDKIT)


def _row(name: str, load: Load, goals: tuple[Goal, ...]) -> tuple[Row, Load]:
    return Row(name, load.unit, goals), load


SMALL = (
    _row(
        "4 KiB random write, depth 32", Load("randwrite", 4 * KIB, 32), _both(mirror=4, nbdkit=1.5)
    ),
    _row("4 KiB random write, depth 1", Load("randwrite", 4 * KIB), _both(mirror=1.2, nbdkit=0.6)),
    _row("4 KiB random read, depth 32", Load("randread", 4 * KIB, 32), _unmirrored(1.5)),
    _row(
        "64 KiB sequential write, depth 16",
        Load("write", 64 * KIB, 16),
        _both(mirror=1.2, nbdkit=0.5),
    ),
)
LARGE = (
    _row("1 MiB sequential write, depth 8", Load("write", MIB, 8), _both(mirror=1.5, nbdkit=0.5)),
    _row("1 MiB sequential read, depth 8", Load("read", MIB, 8), _unmirrored(1)),
    _row("1 MiB sequential read, depth 32", Load("read", MIB, 32), _unmirrored(1)),
    _row("32 MiB sequential read, depth 1", Load("read", 32 * MIB), _unmirrored(1)),
)
FLUSH = _row(
    "4 KiB write + flush, one client",
    Load("write", 4 * KIB, flush=True),
    _both(mirror=1.5, nbdkit=1),
)
FLUSH_EIGHT = _row(
    "4 KiB write + flush, eight clients on eight volumes",
    Load("write", 4 * KIB, connections=8, flush=True),
    _unmirrored(2),
)


def _measure_one(bench: Bench, loads: Sequence[tuple[Row, Load]]) -> dict[str, Measured]:
    names = [name for name in ALL if name in bench.servers]
    return _measure(
        bench, loads, [SERVERS[name](bench.place(name), VOLUME_BYTES) for name in names]
    )


def _measure_eight(bench: Bench) -> dict[str, Measured]:
    names = [name for name in (OURS, NBDKIT, MIRROR) if name in bench.servers]
    size = VOLUME_BYTES // len(EIGHT)
    servers = [SERVERS[name](bench.place(name), size, EIGHT) for name in names]
    return _measure(bench, [FLUSH_EIGHT], servers)


def _measure(
    bench: Bench, loads: Sequence[tuple[Row, Load]], servers: Sequence[Server]
) -> dict[str, Measured]:
    with ExitStack() as stack:
        for server in servers:
            fill(stack.enter_context(server))
        works = {
            row.name: {server.name: partial(load.run, server, bench.seconds) for server in servers}
            for row, load in loads
        }
        return in_turns(bench, works)


def parts() -> Iterator[Part]:
    one = [*SMALL, *LARGE, FLUSH]
    yield Part("requests", [row for row, _ in one], lambda bench: _measure_one(bench, one))
    yield Part("flush8", [FLUSH_EIGHT[0]], _measure_eight)
