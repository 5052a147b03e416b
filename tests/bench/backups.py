"""Backups: an incremental one, reading a cut, and what a writer notices of a backup.

An incremental backup is measured beside the plain way to bring the same extents into a file: a loop
of pread and pwrite, and `fdatasync`. Each step is timed: what changed is copied, and read once more
to be compared with the cut.

A point is read beside its primary. A writer of 4 KiB is watched while a full backup copies and
compares, and without one right before.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from duplexd.backup import run as backups
from duplexd.backup.steps import Step, Watch
from duplexd.client import Client
from duplexd.limits import BackupLimits
from duplexd.units import GIB, KIB, MIB
from tests.bench.loads import VOLUME_BYTES, Load, fill, fio
from tests.bench.parts import Bench, Part, in_turns
from tests.bench.rows import OURS, Goal, Measure, Measured, Row
from tests.bench.servers import VOLUME, Duplexd, Server
from tests.support.daemon import ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROUNDS_MAX = 3
SECONDS_MAX = 300.0
JOURNAL_BYTES = 256 * MIB
PLAIN_LOOP, PRIMARY = "plain loop", "primary"

INCREMENTAL_BYTES = 4 * GIB
CHANGE_BYTES, CHANGE_STEP_BYTES = 64 * KIB, 1280 * KIB  # 5 % scattered
GOAL = (Goal(0.5, PLAIN_LOOP),)
COPYING = Row("incremental backup, 5 % changed: copying it", "MiB/s", GOAL)
WHOLE = Row("incremental backup, 5 % changed: all of it, with its proof", "MiB/s", GOAL)
COPIED = Row("bytes of an incremental backup, by bytes changed", "x", (Goal(1.02),), limit=True)

POINTS = (
    (Row("1 MiB sequential read of a point, depth 8", "MiB/s", (Goal(0.9, PRIMARY),)),
     Load("read", MIB, 8)),
    (Row("4 KiB random read of a point, depth 32", "1/s", (Goal(0.9, PRIMARY),)),
     Load("randread", 4 * KIB, 32)),
)  # fmt: skip

BESIDE_BYTES = 2 * GIB
BESIDE_SECONDS_MIN = 2.0
BESIDE = {
    depth: Row(
        f"p99 of 4 KiB random writes, depth {depth}, beside a backup, by p99 without",
        "x",
        (Goal(1.2),),
        limit=True,
    )
    for depth in (1, 8)
}


class _Server(Duplexd):
    """A full volume."""

    journal_bytes = JOURNAL_BYTES

    def fill(self) -> None:
        fio(self, ["--rw=write", "--bs=1m", "--iodepth=8"], SECONDS_MAX)
        self.sync()

    def command_line(self, *arguments: str) -> list[str]:
        """`duplexctl`, as users call it."""
        main = "from duplexd.duplexctl.cli import main; main()"
        socket = str(self.daemon.files.control_socket)
        return [sys.executable, "-c", main, "--socket", socket, *arguments]

    def suspended(self) -> bool:
        """Whether a reader keeps the secondary at a cut."""
        row = self._status()
        return row["state"] == "SUSPENDED" and bool(row["readers"])

    def wait_until(self, suspended: bool) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while not (self.suspended() if suspended else self._status()["state"] == "DUPLEX"):
            if time.monotonic() > deadline:
                raise RuntimeError("the pair is not where the backup brings it")
            time.sleep(0.02)

    def _status(self) -> dict[str, Any]:
        row: dict[str, Any] = self.daemon.request("GET", "/v1/status")[1]["volumes"][0]
        return row


# -------------------------------------------------------------------------------- incremental


class _Steps:
    """Implements `Watch` of backups: when each step began."""

    def __init__(self) -> None:
        self.began: list[tuple[Step, float]] = []

    def step(self, step: Step) -> None:
        self.began.append((step, time.perf_counter()))

    def progress(self, _name: str, _done: int, _total: int) -> None:
        """Not shown."""

    def warn(self, text: str) -> None:
        raise RuntimeError(text)  # it would be a full backup

    def seconds(self) -> dict[Step, float]:
        ends = [when for _, when in self.began[1:]]
        return {step: end - began for (step, began), end in zip(self.began[:-1], ends, strict=True)}


class _Backups:
    """Of a server, into one directory."""

    def __init__(self, server: _Server, destination: Path) -> None:
        self._server = server
        self._destination = destination
        self.plain = server.directory / "plain.img"
        self.changed = len(self.extents()) * CHANGE_BYTES

    def extents(self) -> range:
        return range(0, self._server.size - CHANGE_STEP_BYTES + 1, CHANGE_STEP_BYTES)

    def change(self) -> None:
        between = (CHANGE_STEP_BYTES - CHANGE_BYTES) // KIB
        options = [f"--rw=write:{between}k", f"--bs={CHANGE_BYTES}", "--iodepth=16"]
        fio(self._server, [*options, f"--io_size={self.changed}"], SECONDS_MAX)
        self._server.sync()

    def make(self, watch: Watch) -> backups.Made:
        """As `duplexctl backup --incremental --no-verify-cut`; the pair is DUPLEX afterwards."""

        async def work() -> backups.Made:
            async with Client.local(self._server.daemon.files.control_socket) as client:
                plan = backups.Plan(
                    ("all",), str(self._destination), verify_cut=False, full_every=100
                )
                return await backups.run(plan, client, watch, BackupLimits())

        made = asyncio.run(work())
        self._server.wait_until(suspended=False)
        return made

    def loop(self) -> float:
        """The same extents by hand, into a new file; MiB/s."""
        image = self._server.directory / "a" / f"{VOLUME}.img"
        with self.plain.open("wb") as file:
            file.truncate(self._server.size)
        began = time.perf_counter()
        with image.open("rb") as source, self.plain.open("r+b") as target:
            for offset in self.extents():
                data = os.pread(source.fileno(), CHANGE_BYTES, offset)
                os.pwrite(target.fileno(), data, offset)
            os.fdatasync(target.fileno())
        return self.changed / MIB / (time.perf_counter() - began)


class _First(_Steps):
    def warn(self, _text: str) -> None:
        """There is none to build on."""


def _incremental(bench: Bench) -> dict[str, Measured]:
    found: dict[str, Measured] = {
        COPYING.name: {OURS: [], PLAIN_LOOP: []},
        WHOLE.name: {OURS: [], PLAIN_LOOP: []},
        COPIED.name: {OURS: []},
    }
    place = bench.place("incremental")
    with _Server(place, bench.sized(INCREMENTAL_BYTES)) as server:
        made = _Backups(server, place / "backups")
        server.fill()
        made.make(_First())
        for number in range(min(bench.rounds, ROUNDS_MAX)):
            made.change()
            plain = made.loop() if number % 2 else 0.0
            steps = _Steps()
            result = made.make(steps)
            plain = plain or made.loop()
            seconds = steps.seconds()
            whole = sum(seconds.values())
            size = made.changed / MIB
            for row, took in ((COPYING, seconds[Step.COPY]), (WHOLE, whole)):
                found[row.name][OURS].append(Measure(size / took))
                found[row.name][PLAIN_LOOP].append(Measure(plain))
            (volume,) = result.manifest.volumes
            found[COPIED.name][OURS].append(Measure(volume.bytes / made.changed))
            each = ", ".join(f"{step.name} {took:.2f}" for step, took in seconds.items())
            bench.say(f"{size:.0f} MiB changed: plain {size / plain:.2f} s; {each} s")
    return found


# --------------------------------------------------------------------------- reading a point


class _Export(Server):
    """An export of a server that runs already."""

    def __init__(self, name: str, server: _Server, export: str) -> None:
        super().__init__(server.directory, server.size)
        self.name = name
        self._server = server
        self._export = export

    @property
    def pid(self) -> int:
        return self._server.pid

    def uri(self, _volume: str = VOLUME) -> str:
        return self._server.uri(self._export)


def _points(bench: Bench) -> dict[str, Measured]:
    with _Server(bench.place("points"), VOLUME_BYTES) as server:
        fill(server, server.journal_bytes)
        server.command("/v1/suspend", {"targets": ["all"]})
        exports = [
            _Export(OURS, server, f"{VOLUME}@latest"),
            _Export(PRIMARY, server, VOLUME),
        ]
        works = {
            row.name: {each.name: partial(load.run, each, bench.seconds) for each in exports}
            for row, load in POINTS
        }
        return in_turns(bench, works)


# -------------------------------------------------------------------------- beside a backup


def _beside(bench: Bench) -> dict[str, Measured]:
    found: dict[str, Measured] = {row.name: {OURS: []} for row in BESIDE.values()}
    place = bench.place("beside")
    with _Server(place, bench.sized(BESIDE_BYTES)) as server:
        server.fill()
        seconds = max(bench.seconds, 0 if bench.small else BESIDE_SECONDS_MIN)
        for number in range(min(bench.rounds, ROUNDS_MAX)):
            for depth, row in BESIDE.items():
                usual = _p99_ms(server, depth, seconds)
                beside = _during_a_backup(server, place / f"b{number}-{depth}", depth, seconds)
                found[row.name][OURS].append(Measure(beside / usual))
                bench.say(f"depth {depth}: p99 {usual:.2f} ms, beside a backup {beside:.2f} ms")
    return found


def _during_a_backup(server: _Server, destination: Path, depth: int, seconds: float) -> float:
    """Raises RuntimeError if the backup had ended before the writer."""
    command = server.command_line("--quiet", "backup", "all", str(destination), "--no-verify-cut")
    with subprocess.Popen(command, env=environment(), cwd=ROOT) as backup:
        server.wait_until(suspended=True)
        p99_ms = _p99_ms(server, depth, seconds)
        if not server.suspended():
            raise RuntimeError("the backup ended before the writer: make --seconds less")
        if backup.wait(SECONDS_MAX):
            raise RuntimeError("the backup failed")
    server.wait_until(suspended=False)
    for path in destination.rglob("*.qcow2"):
        path.unlink()
    return p99_ms


def _p99_ms(server: _Server, depth: int, seconds: float) -> float:
    server.sync()
    options = ["--rw=randwrite", "--bs=4k", f"--iodepth={depth}", "--time_based"]
    options += [f"--runtime={seconds * 1e3:.0f}ms", "--percentile_list=99"]
    job = fio(server, options, SECONDS_MAX)
    return float(job["write"]["clat_ns"]["percentile"]["99.000000"]) / 1e6


def parts() -> Iterator[Part]:
    yield Part("incremental", [COPYING, WHOLE, COPIED], _incremental, extra=True)
    yield Part("points", [row for row, _ in POINTS], _points)
    yield Part("beside-backup", list(BESIDE.values()), _beside, extra=True)
