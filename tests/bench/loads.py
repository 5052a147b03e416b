"""What is measured on every server: fio's NBD engine, and `qemu-img bench` where a flush follows
every write.
"""

from __future__ import annotations

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from duplexd.units import KIB, MIB
from tests.bench.servers import JOURNAL_BYTES, cpu_s

if TYPE_CHECKING:
    from tests.bench.servers import Server

FILL_SECONDS_MAX = 120.0
_COMPLETED = re.compile(r"Run completed in ([\d.]+) seconds")


class Measure(NamedTuple):
    """One run: requests a second, and server CPU microseconds a request."""

    per_second: float
    cpu_us: float


@dataclass(frozen=True)
class Load:
    """One line of the table.

    `block` bytes a request; with `flush` every write is followed by a flush, from `clients` at
    once.
    """

    name: str
    rw: str
    block: int
    depth: int = 1
    clients: int = 1
    flush: bool = False

    @property
    def filled(self) -> int:
        """With requests of which size the volume is filled before."""
        return MIB if self.block >= 64 * KIB else 4 * KIB

    @property
    def unit(self) -> str:
        return "MiB/s" if self.block >= 64 * KIB else "1/s"

    def value(self, measure: Measure) -> float:
        """In `unit`."""
        return measure.per_second * self.block / MIB if self.unit == "MiB/s" else measure.per_second

    def run(self, server: Server, seconds: float) -> Measure:
        """Load the server for about that long."""
        server.sync()  # so that a run does not pay for what an earlier one left in the page cache
        before = cpu_s(server.pid)
        requests, elapsed_s = (
            self._flushes(server, seconds) if self.flush else self._fio(server, seconds)
        )
        return Measure(requests / elapsed_s, (cpu_s(server.pid) - before) / requests * 1e6)

    def _fio(self, server: Server, seconds: float) -> tuple[int, float]:
        options = [
            f"--rw={self.rw}",
            f"--bs={self.block}",
            f"--iodepth={self.depth}",
            "--norandommap",
            "--randrepeat=0",
        ]
        job = fio(
            server, [*options, "--time_based", f"--runtime={seconds * 1e3:.0f}ms"], 60 + seconds * 3
        )
        side = job["read" if "read" in self.rw else "write"]
        return side["total_ios"], side["runtime"] / 1e3

    def _flushes(self, server: Server, seconds: float) -> tuple[int, float]:
        """A warm-up measures how many writes fill the time."""
        count = 50
        probe_s = self._bench(server, count, 0)
        count = max(count, int(count * seconds / probe_s))
        with ThreadPoolExecutor(self.clients) as pool:
            times = list(
                pool.map(
                    lambda client: self._bench(server, count, client * server.size // self.clients),
                    range(self.clients),
                )
            )
        return count * self.clients, max(times)

    def _bench(self, server: Server, count: int, offset: int) -> float:
        command = [
            "qemu-img",
            "bench",
            "-f",
            "raw",
            "-t",
            "none",
            "-w",
            "-c",
            str(count),
            "-d",
            "1",
            "-s",
            str(self.block),
        ]
        command += ["-o", str(offset), "--flush-interval=1", server.uri]
        result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        match = _COMPLETED.search(result.stdout)
        if match is None:
            raise RuntimeError(f"qemu-img bench said {result.stdout!r}")
        return float(match[1])


def fio(server: Server, options: list[str], seconds_max: float) -> dict[str, Any]:
    """One job over the whole volume; what fio says of it."""
    command = [
        "fio",
        "--name=bench",
        "--ioengine=nbd",
        f"--uri={server.uri}",
        f"--size={server.size}",
        "--thread",
        *options,
    ]
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


def fill(server: Server, block: int) -> None:
    """Write the whole volume in order, `block` bytes at a time, as often as it takes for duplexd's
    journal to have gone round once.

    The size matters later: ext4 keeps a large write as one large folio in the page cache, and an
    overwrite of 4 KiB in a folio of 1 MiB takes it 11 us, in one of 4 KiB 2.5 us. So each load
    finds the volume as written by requests about as large as its own.
    """
    fio(
        server,
        [
            "--rw=write",
            f"--bs={block}",
            f"--iodepth={max(1, min(32, MIB // block))}",
            f"--loops={JOURNAL_BYTES // server.size + 1}",
        ],
        FILL_SECONDS_MAX,
    )
    server.sync()


LOADS = [
    Load("4 KiB random write, depth 1", "randwrite", 4 * KIB),
    Load("4 KiB random write, depth 32", "randwrite", 4 * KIB, depth=32),
    Load("4 KiB random read, depth 32", "randread", 4 * KIB, depth=32),
    Load("64 KiB sequential write, depth 4", "write", 64 * KIB, depth=4),
    Load("1 MiB sequential write, depth 4", "write", MIB, depth=4),
    Load("1 MiB sequential read, depth 4", "read", MIB, depth=4),
    Load("4 KiB write+flush, 1 client", "write", 4 * KIB, flush=True),
    Load("4 KiB write+flush, 8 clients", "write", 4 * KIB, clients=8, flush=True),
]
