"""Many NBD connections for a long time: `make soak`. Most are idle, some write and read.

It ends with 1 if the daemon's memory grows in the second half of the time, if a socket stays open
behind its client, or if the slowest hundredth of writes becomes slower. Figures are printed for
each tenth of the time: resident MiB, sockets, writes, and the 50th and 99th of 100 writes in ms.
In the first half buffers of busy connections and segments of the journal are made.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from duplexd.nbd_aio.connecting import connect
from tests.support.daemon import Daemon, DaemonFiles

if TYPE_CHECKING:
    from duplexd.nbd_aio.nbd_disk import Disk

SIZE = 256 << 20
VOLUMES = ("data", "wal")
GROWTH_MIB_MAX = 6.0
SLOWER_MAX = 3.0  # of the 99th of 100; other work on the machine shows here, too
BLOCK = bytes(4096)


@dataclass(frozen=True)
class Interval:
    """A tenth of the time."""

    resident_mib: float
    sockets: int
    waits_s: list[float]

    def wait_ms(self, hundredth: int) -> float:
        return sorted(self.waits_s)[len(self.waits_s) * hundredth // 100] * 1000

    def __str__(self) -> str:
        return (
            f"{self.resident_mib:6.1f} MiB, {self.sockets} sockets, "
            f"{len(self.waits_s)} writes, p50 {self.wait_ms(50):.1f} ms, "
            f"p99 {self.wait_ms(99):.1f} ms"
        )


def faults(intervals: list[Interval], open_before: int, open_after: int) -> list[str]:
    """What is wrong in the second half."""
    first, last = intervals[len(intervals) // 2], intervals[-1]
    found = []
    if last.resident_mib > first.resident_mib + GROWTH_MIB_MAX:
        found.append(f"memory grew from {first.resident_mib:.1f} to {last.resident_mib:.1f} MiB")
    if open_after > open_before:
        found.append(f"{open_after - open_before} sockets were not closed")
    if last.wait_ms(99) > SLOWER_MAX * first.wait_ms(99):
        found.append(f"p99 went from {first.wait_ms(99):.1f} to {last.wait_ms(99):.1f} ms")
    return found


async def busy(connection: Disk, number: int, waits_s: list[float]) -> None:
    """Writes 64 blocks over and over, and reads each eighth, until the connection ends."""
    while True:
        for turn in range(64):
            offset = (number * 64 + turn) * len(BLOCK)
            begun = time.monotonic()
            await connection.write(offset, BLOCK)
            waits_s.append(time.monotonic() - begun)
            if turn % 8 == 0:
                assert await connection.read(offset, len(BLOCK)) == BLOCK


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / (1 << 20)


def sockets(pid: int) -> int:
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += descriptor.readlink().name.startswith("socket:")
    return found


async def load(files: DaemonFiles, pid: int, arguments: argparse.Namespace) -> list[Interval]:
    intervals: list[Interval] = []
    waits_s: list[float] = []
    async with AsyncExitStack() as stack:
        uris = [files.uri(VOLUMES[number % 2]) for number in range(arguments.idle + arguments.busy)]
        opened = [await stack.enter_async_context(await connect(uri)) for uri in uris]
        workers = [
            asyncio.create_task(busy(connection, number, waits_s))
            for number, connection in enumerate(opened[: arguments.busy])
        ]
        for _ in range(10):
            await asyncio.wait(
                workers, timeout=arguments.seconds / 10, return_when=asyncio.FIRST_COMPLETED
            )
            intervals.append(Interval(resident_mib(pid), sockets(pid), waits_s.copy()))
            print(intervals[-1], flush=True)
            waits_s.clear()
        for worker in workers:
            assert not worker.done(), worker.exception()
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return intervals


def closed(pid: int, before: int) -> int:
    """Sockets once the daemon has noticed that its clients have gone."""
    deadline = time.monotonic() + 30
    while sockets(pid) > before and time.monotonic() < deadline:
        time.sleep(0.1)
    return sockets(pid)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make soak")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--busy", type=int, default=64)
    arguments = parser.parse_args(words)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as directory:
        files = DaemonFiles(Path(directory), dict.fromkeys(VOLUMES, SIZE), journal_size="256MiB")
        daemon = Daemon(files.write()).start()
        try:
            before = sockets(daemon.pid)
            intervals = asyncio.run(load(files, daemon.pid, arguments))
            after = closed(daemon.pid, before)
            assert daemon.stop() == 0
        finally:
            daemon.kill()
    found = faults(intervals, before, after)
    print("\n".join(found) or "memory, sockets and p99 are stable")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
