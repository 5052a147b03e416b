"""What is measured on every server: fio's NBD engine, and `qemu-img bench` where a flush follows every write."""

from __future__ import annotations

import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from duplexd.units import KIB, MIB
from tests.bench.servers import cpu_s

if TYPE_CHECKING:
    from tests.bench.servers import Server

_COMPLETED = re.compile(r"Run completed in ([\d.]+) seconds")


class Measure(NamedTuple):
    """One run: requests a second, and server CPU microseconds a request."""

    per_second: float
    cpu_us: float


@dataclass(frozen=True)
class Load:
    """One line of the table. `block` bytes a request; with `flush` every write is followed by a flush, from `clients` at once."""

    name: str
    rw: str
    block: int
    depth: int = 1
    clients: int = 1
    flush: bool = False

    @property
    def unit(self) -> str:
        return "MiB/s" if self.block >= 64 * KIB else "1/s"

    def value(self, measure: Measure) -> float:
        """In `unit`."""
        return measure.per_second * self.block / MIB if self.unit == "MiB/s" else measure.per_second

    def run(self, server: Server, seconds: float) -> Measure:
        """Load the server for about that long."""
        os.sync()  # nobody pays for what the one before left in the page cache
        before = cpu_s(server.pid)
        requests, elapsed_s = self._flushes(server, seconds) if self.flush else self._fio(server, seconds)
        return Measure(requests / elapsed_s, (cpu_s(server.pid) - before) / requests * 1e6)

    def _fio(self, server: Server, seconds: float) -> tuple[int, float]:
        command = ["fio", "--name=bench", "--ioengine=nbd", f"--uri={server.uri}", f"--rw={self.rw}", f"--bs={self.block}"]
        command += [f"--iodepth={self.depth}", f"--size={server.size}", "--time_based", f"--runtime={seconds * 1e3:.0f}ms"]
        command += ["--norandommap", "--randrepeat=0", "--thread", "--output-format=json"]
        result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60 + seconds * 3)
        job = json.loads(result.stdout[result.stdout.index("{") :])["jobs"][0]
        if job["error"]:
            raise RuntimeError(f"{self.name} on {server.name}: fio met error {job['error']}")
        side = job["read" if "read" in self.rw else "write"]
        return side["total_ios"], side["runtime"] / 1e3

    def _flushes(self, server: Server, seconds: float) -> tuple[int, float]:
        """A warm-up tells how many writes fill the time."""
        count = 50
        probe_s = self._bench(server, count, 0)
        count = max(count, int(count * seconds / probe_s))
        with ThreadPoolExecutor(self.clients) as pool:
            times = list(pool.map(lambda client: self._bench(server, count, client * server.size // self.clients), range(self.clients)))
        return count * self.clients, max(times)

    def _bench(self, server: Server, count: int, offset: int) -> float:
        command = ["qemu-img", "bench", "-f", "raw", "-t", "none", "-w", "-c", str(count), "-d", "1", "-s", str(self.block)]
        command += ["-o", str(offset), "--flush-interval=1", server.uri]
        result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        match = _COMPLETED.search(result.stdout)
        if match is None:
            raise RuntimeError(f"qemu-img bench said {result.stdout!r}")
        return float(match[1])


FILL = Load("fill", "write", MIB, depth=4)
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
