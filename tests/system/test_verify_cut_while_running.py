"""`verify-cut` while the daemon writes, checkpoints, recycles, resyncs, is killed and restarts: its
answer is right, or "could not check" with the reason.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pytest

from duplexd.limits import ProofLimits
from duplexd.nbd_aio.connecting import connect
from duplexd.units import MIB
from duplexd.verify_cut import document, past
from duplexd.verify_cut.check import check
from duplexd.verify_cut.report import CONFIRMED, DROPPED, FOUND, RECORDED, REFUTED, UNCHECKED
from tests.support.daemon import ROOT, environment, run_duplexctl
from tests.support.granted_writers import Writers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from duplexd.verify_cut.report import Report
    from tests.support.daemon import Daemon, DaemonFiles

BLOCK = 4096
SIZE = 4 * MIB
LIMITS = ProofLimits()
NO_WAIT = ProofLimits(start_seconds_max=0.0)  # no daemon will finish this start
MARKED = SIZE - BLOCK  # the block that only the test itself writes to
VOLUMES = ("data", "wal")
REACH = 96 * 1024  # a few places are changed again and again
WAIT_SECONDS = 120.0
ROUNDS = 6

# A daemon that dies in front of the write to an image whose number is its first argument
DIES = """
import os, sys
from duplexd.runtime.realfile import RealFile
left, whole = int(sys.argv.pop(1)), RealFile.write

def write(self, offset, data):
    global left
    if self.path.endswith(".img"):
        left -= 1
        if left < 0:
            os._exit(77)
    whole(self, offset, data)

RealFile.write = write
from duplexd.daemon.program import main
main()
"""


class Certified(NamedTuple):
    """A certificate, a copy of its secondary with one byte changed that was written right before
    the cut, and whether the cut is void.
    """

    path: str
    spoilt: str
    void: bool


def suspend(files: DaemonFiles, path: Path) -> int:
    done = run_duplexctl(files, "suspend", "db", "--certificate", str(path))
    assert done.returncode == 0, done.stderr
    return document.read(str(path)).members[0].sequence


def verify(path: str, limits: ProofLimits = LIMITS, **images: str) -> Report:
    given = {("test", volume): image for volume, image in images.items()}
    return check(document.read(path), {}, given, limits)


# Killed in the midst of a recovery


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_recovery_killed_half_way_refutes_no_cut_and_the_next_recovery_completes_it(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    tmp_path: Path,
    mode: str,
) -> None:
    files = make_files(volumes={"data": SIZE}, groups={"db": ["data"]}, mode=mode)
    daemon = start_daemon(files)
    path = tmp_path / "cut.json"
    await written_and_cut_since_the_checkpoint(daemon, path)
    images = [files.primary("data"), files.secondary_of("data")]
    for number in (0, 1, 5):  # of six changes
        die_in_recovery(files, number)
        report = verify(str(path), NO_WAIT)
        there = [image.read_bytes()[MARKED] for image in images]
        assert there == [number or 6, 6], (
            "the change that it had come to; the secondary stays as it is"
        )
        assert (report.outcome, report.controllers[0].volumes[0].by_primary_bytes) == (
            CONFIRMED,
            0,
        ), "of the primary nothing is concluded"
    daemon.start()
    assert verify(str(path)).outcome == CONFIRMED


def die_in_recovery(files: DaemonFiles, number: int) -> None:
    """Die before that write to an image."""
    command = [sys.executable, "-c", DIES, str(number), "run", "--config", str(files.config)]
    died = subprocess.run(
        command, env=environment(), cwd=ROOT, capture_output=True, timeout=WAIT_SECONDS, check=False
    )
    assert died.returncode == 77, died.stderr


async def written_and_cut_since_the_checkpoint(daemon: Daemon, path: Path) -> None:
    """One block with six changes, a cut, and no daemon; and its checkpoint is older than all of
    them.
    """
    while True:
        async with connect(daemon.files.uri("data")) as nbd:
            for byte in range(1, 7):
                await nbd.write(MARKED, bytes([byte]) * BLOCK)
        sequence = await asyncio.to_thread(suspend, daemon.files, path)
        daemon.kill()
        known = past.read(daemon.files.state_dir / "journal")
        assert known is not None
        if known.sequence < sequence - 6:
            return
        daemon.start()  # so slow that it was time for one
        assert run_duplexctl(daemon.files, "resync", "db", "--wait").returncode == 0


# All at once


class Checking:
    """A thread that checks all certificates repeatedly. `laps` counts the rounds."""

    def __init__(self) -> None:
        self.certified: list[Certified] = []
        self.laps = 0
        self.wrong: list[Any] = []
        self.seen: set[tuple[str, str, bool]] = set()  # outcome, record, spoilt
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def lap(self, count: int = 1) -> None:
        """Wait until each certificate that is known by now was checked."""
        wanted = self.laps + 1 + count
        async with asyncio.timeout(WAIT_SECONDS):
            while self.laps < wanted and self._thread.is_alive():  # noqa: ASYNC110 - a thread
                await asyncio.sleep(0.01)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                for certified in list(self.certified):
                    self._judge(certified, verify(certified.path), spoilt=False)
                    self._judge(
                        certified, verify(certified.path, data=certified.spoilt), spoilt=True
                    )
                self.laps += 1
                self._stop.wait(0.01)
        except BaseException as error:  # noqa: BLE001 - reported by the test
            self.wrong.append(repr(error))

    def _judge(self, certified: Certified, report: Report, spoilt: bool) -> None:
        (member,) = report.controllers
        self.seen.add((report.outcome, member.record, spoilt))
        if certified.void:
            right = report.is_void
        elif report.outcome == REFUTED:
            right = (
                spoilt
                and not report.is_void
                and all(certified.spoilt in text for text in member.contradictions)
            )
        elif report.outcome in {
            CONFIRMED,
            RECORDED,
        }:  # of a copy that is spoilt only if no witness was left
            right = member.record == FOUND and (
                not spoilt or member.volumes[0].unchecked_bytes >= BLOCK
            )
        else:
            right = bool(member.undecided or member.unchecked)
        if not right:
            self.wrong.append((certified, report))


async def test_every_answer_is_right_while_the_daemon_runs(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    files = make_files(
        volumes=dict.fromkeys(VOLUMES, SIZE), groups={"db": list(VOLUMES)}, journal_size="32MiB"
    )
    daemon = start_daemon(files)
    with Checking() as checking:
        async with Writers([files], REACH) as writers:
            for number in range(ROUNDS):
                writers.grant(2 * MIB)
                checking.certified.append(
                    await certify(daemon, tmp_path / f"{number}.json", number, void=number % 3 == 2)
                )
                await checking.lap()
                await restart(daemon, kill=number % 2 == 0)
                await checking.lap()
                writers.grant(8 * MIB)
                done = await asyncio.to_thread(run_duplexctl, files, "resync", "db", "--wait")
                assert done.returncode == 0, done.stderr
                assert not checking.wrong
            await writers.written()
            await checking.lap()
    assert not checking.wrong
    assert {
        (CONFIRMED, FOUND, False),
        (REFUTED, FOUND, True),
        (UNCHECKED, DROPPED, False),
    } <= checking.seen


async def certify(daemon: Daemon, path: Path, number: int, void: bool) -> Certified:
    files = daemon.files
    async with connect(files.uri("data")) as nbd:
        await nbd.write(MARKED, bytes([number + 1]) * BLOCK)
    await asyncio.to_thread(suspend, files, path)
    spoilt = path.with_suffix(".img")
    shutil.copyfile(files.secondary_of("data"), spoilt)
    with spoilt.open("r+b") as file:
        file.seek(MARKED)
        file.write(b"\xee")
    if void:
        grade = {"consistent": False, "records": 1, "detail": "broken"}
        status, _ = await asyncio.to_thread(
            daemon.request, "POST", f"/v1/cuts/{document.read(str(path)).cut}/grade", grade
        )
        assert status == 200
    return Certified(str(path), str(spoilt), void)


async def restart(daemon: Daemon, kill: bool) -> None:
    if kill:
        await asyncio.to_thread(daemon.kill)
    else:
        assert await asyncio.to_thread(daemon.stop) == 0
    await asyncio.to_thread(daemon.start)
