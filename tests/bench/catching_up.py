"""What a secondary costs: its first copy, a resync, and comparing it with its primary.

Each is measured beside the plain way to do the same to files: `cp`, a loop of pread and pwrite,
`cmp`. All ends with the data on the disk. The source lies in the page cache, but for comparisons:
duplexd compares what the disks hold, so `cmp` reads the disks, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from duplexd.units import GIB, KIB, MIB
from tests.bench.loads import fio
from tests.bench.parts import Bench, Part, in_turns
from tests.bench.rows import OURS, Goal, Measure, Measured, Row
from tests.bench.servers import Duplexd, cpu_s
from tests.support.daemon import Daemon, DaemonFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS_MAX = 3
SECONDS_MAX = 600.0
PLAIN_COPY, PLAIN_LOOP, PLAIN_COMPARE = "cp --sparse=always", "plain loop", "cmp"

COPY_BYTES = 4 * GIB
FIRST_COPY = Row("first copy of an image half full", "MiB/s", (Goal(0.8, PLAIN_COPY),))

RESYNC_BYTES = 10 * GIB
CHANGE_BYTES, CHANGE_STEP_BYTES = 64 * KIB, 640 * KIB  # 10 % scattered
RESYNC = Row("resync of 10 % scattered changes", "MiB/s", (Goal(0.6, PLAIN_LOOP),))
RESYNC_COPIED = Row(
    "bytes that the resync copies, by bytes changed", "x", (Goal(1.01),), limit=True
)

VERIFY_BYTES = GIB
VERIFY = Row("verify of data", "MiB/s", (Goal(1, PLAIN_COMPARE),))
VERIFY_HOLES = Row("MiB read by verify of holes", "MiB", (Goal(1),), limit=True)


def synced(path: Path) -> None:
    with path.open("r+b") as file:
        os.fdatasync(file.fileno())


def drop_cache(path: Path) -> None:
    synced(path)
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# --------------------------------------------------------------------------------- first copy


def _half_full(path: Path, size: int) -> Path:
    piece = os.urandom(MIB)
    with path.open("wb") as file:
        file.truncate(size)
        for offset in range(0, size, 2 * MIB):
            os.pwrite(file.fileno(), piece, offset)
        os.fdatasync(file.fileno())
    return path


def _first_copy(bench: Bench) -> dict[str, Measured]:
    size = bench.sized(COPY_BYTES)
    place = bench.place("first-copy")
    place.mkdir()
    source = _half_full(place / "source.img", size)
    target = place / "target.img"

    def ours() -> Measure:
        return _copied(bench, source, size)

    def plain() -> Measure:
        began = time.perf_counter()
        subprocess.run(["cp", "--sparse=always", str(source), str(target)], check=True)
        synced(target)
        elapsed_s = time.perf_counter() - began
        target.unlink()
        return Measure(size / 2 / MIB / elapsed_s)

    works = {FIRST_COPY.name: {OURS: ours, PLAIN_COPY: plain}}
    return in_turns(bench, works, min(bench.rounds, ROUNDS_MAX))


def _copied(bench: Bench, source: Path, size: int) -> Measure:
    """By the daemon's own clock, from its first checkpoint, after which the copy begins, until the
    pair is DUPLEX.
    """
    files = DaemonFiles(bench.place("pair"), {"volume": size}, journal_size="256MiB")
    files.directory.mkdir()
    files.write()
    source.rename(files.primary("volume"))
    daemon = Daemon(files)
    try:
        daemon.start()
        ended = daemon.wait_log('"event": "duplex"', seconds=SECONDS_MAX)
        began = daemon.wait_log("writing the first checkpoint")
        cpu = cpu_s(daemon.pid)
        daemon.stop()
    finally:
        daemon.kill()
        files.primary("volume").rename(source)
        for name in os.listxattr(source):  # whose image it is: the next daemon is another one
            os.removexattr(source, name)
        files.secondary_of("volume").unlink()
    mebibytes = size / 2 / MIB
    return Measure(mebibytes / (_when(ended) - _when(began)), cpu / mebibytes * 1e6)


def _when(line: str) -> float:
    return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()


# ------------------------------------------------------------------------------------- resync


class _Pair(Duplexd):
    """Its journal does not reach back to the cut, so a resync copies what the change map says."""

    journal_bytes = 64 * MIB

    def image(self, side: str) -> Path:
        return self.directory / side / f"{self.volumes[0]}.img"

    def suspend(self) -> None:
        self.command("/v1/suspend", {"targets": ["all"]})

    def change(self) -> None:
        """Write the scattered extents."""
        between = (CHANGE_STEP_BYTES - CHANGE_BYTES) // KIB
        options = [f"--rw=write:{between}k", f"--bs={CHANGE_BYTES}", "--iodepth=16"]
        options += [f"--io_size={len(self.extents()) * CHANGE_BYTES}"]
        fio(self, options, SECONDS_MAX)

    def extents(self) -> range:
        return range(0, self.size - CHANGE_STEP_BYTES, CHANGE_STEP_BYTES)

    def changed_bytes(self) -> int:
        _, status = self.daemon.request("GET", "/v1/status")
        return int(status["volumes"][0]["changed_bytes"])


def _resync(bench: Bench) -> dict[str, Measured]:
    with _Pair(bench.place("resync"), bench.sized(RESYNC_BYTES)) as pair:
        pair.change()  # so that the extents are allocated on both sides, and for the plain loop
        other = pair.directory / "plain.img"
        subprocess.run(["cp", "--sparse=always", str(pair.image("b")), str(other)], check=True)
        found: dict[str, Measured] = {
            RESYNC.name: {OURS: [], PLAIN_LOOP: []},
            RESYNC_COPIED.name: {OURS: []},
        }
        changed = len(pair.extents()) * CHANGE_BYTES
        for number in range(min(bench.rounds, ROUNDS_MAX)):
            pair.suspend()
            pair.change()
            pair.sync()
            copied = Measure(pair.changed_bytes() / changed)
            found[RESYNC_COPIED.name][OURS].append(copied)
            works = [(OURS, pair.resync), (PLAIN_LOOP, lambda: _loop(pair, other))]
            for name, work in works[:: 1 if number % 2 else -1]:
                cpu, began = cpu_s(pair.pid), time.perf_counter()
                work()
                elapsed_s = time.perf_counter() - began
                cpu_us = (cpu_s(pair.pid) - cpu) / (changed / MIB) * 1e6
                measure = Measure(changed / MIB / elapsed_s, cpu_us if name == OURS else 0.0)
                found[RESYNC.name][name].append(measure)
                bench.say(f"{RESYNC.name}: {name} {measure.value:,.0f} MiB/s")
        return found


def _loop(pair: _Pair, other: Path) -> None:
    with pair.image("a").open("rb") as source, other.open("r+b") as target:
        for offset in pair.extents():
            data = os.pread(source.fileno(), CHANGE_BYTES, offset)
            os.pwrite(target.fileno(), data, offset)
        os.fdatasync(target.fileno())


# ------------------------------------------------------------------------------------- verify


def _verify(bench: Bench) -> dict[str, Measured]:
    size = bench.sized(VERIFY_BYTES)
    holes = _read_by_verify(bench)
    with _Pair(bench.place("verify"), size) as pair:
        fio(pair, ["--rw=write", "--bs=1m", "--iodepth=8"], SECONDS_MAX)
        pair.sync()

        def ours() -> Measure:
            cpu, began = cpu_s(pair.pid), time.perf_counter()
            pair.command("/v1/verify", {"targets": ["all"]})
            elapsed_s = time.perf_counter() - began
            return Measure(size / MIB / elapsed_s, (cpu_s(pair.pid) - cpu) / (size / MIB) * 1e6)

        def plain() -> Measure:
            for side in ("a", "b"):
                drop_cache(pair.image(side))
            began = time.perf_counter()
            subprocess.run(["cmp", str(pair.image("a")), str(pair.image("b"))], check=True)
            return Measure(size / MIB / (time.perf_counter() - began))

        works = {VERIFY.name: {OURS: ours, PLAIN_COMPARE: plain}}
        return in_turns(bench, works) | {VERIFY_HOLES.name: {OURS: [holes]}}


def _read_by_verify(bench: Bench) -> Measure:
    with _Pair(bench.place("holes"), bench.sized(RESYNC_BYTES)) as pair:
        before = _bytes_read(pair.pid)
        pair.command("/v1/verify", {"targets": ["all"]})
        return Measure((_bytes_read(pair.pid) - before) / MIB)


def _bytes_read(pid: int) -> int:
    """By read calls, from the page cache as well as from the disk."""
    return int(Path(f"/proc/{pid}/io").read_text().splitlines()[0].split()[1])


def parts() -> Iterator[Part]:
    yield Part("first-copy", [FIRST_COPY], _first_copy)
    yield Part("resync", [RESYNC, RESYNC_COPIED], _resync)
    yield Part("verify", [VERIFY, VERIFY_HOLES], _verify)
