"""Ways of being unwell in which nothing fails: what was forgotten, misplaced or configured so."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.daemon import Daemon
from tests.support.drills import ended_drill
from tests.support.fuse import FaultyDisk
from tests.support.reliability.health_row import (
    HealthRow,
    ask,
    health_row,
    metrics_text,
    worst_level,
)
from tests.support.reliability.measure import what_was_logged
from tests.support.reliability.rig import MIB, Rig, RigFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OTHER = "other"
_SECONDS_MAX = 30.0  # for a finding to be there, however busy the machine is
_LAZY = '[health]\nsuspended_max = "1s"\n'
_STRICT = '[health]\ncut_age_max = "1s"\n'
_DRILLED = '[health]\ndrill_age_max = "1s"\n'


@dataclass(frozen=True)
class Way:
    """`provokes` is done to a daemon that is well; `prepares` to the files before its start."""

    fault: str
    kind: str
    provokes: Callable[[Rig], object] = lambda _rig: None
    prepares: Callable[[OneVolume], object] = lambda _files: None
    extra: str = ""
    size: str | int = 4 * MIB
    copy_rate: str | None = None


def suspend(rig: Rig) -> None:
    assert rig.daemon.request("POST", "/v1/suspend", {"targets": ["data"]})[0] == 200


def cut_once(rig: Rig) -> None:
    suspend(rig)
    body = {"targets": ["data"], "wait": True}
    assert rig.daemon.request("POST", "/v1/resync", body)[0] == 200


def drill(rig: Rig, exit_code: int) -> None:
    """One that ended with this, on clones of a new cut."""
    ended_drill(rig.daemon, ["data"], exit_code)
    body = {"targets": ["data"], "wait": True}
    assert rig.daemon.request("POST", "/v1/resync", body)[0] == 200


def change_secondary(rig: Rig) -> None:
    """Behind the daemon's back, which only a comparison finds."""
    path = rig.files.secondary_of("data")
    with path.open("r+b") as file:
        file.write(b"changed by somebody else")
    rig.daemon.request("POST", "/v1/verify", {"targets": ["data"]})


def lose_both(rig: Rig) -> None:
    rig.daemon.stop()
    for path in (rig.files.primary("data"), rig.files.secondary_of("data")):
        path.unlink()
    rig.daemon.start()


def fill_primary(files: OneVolume) -> None:
    files.primary("data").write_bytes(b"x" * (4 * MIB))


def one_disk(files: OneVolume) -> None:
    files.apart = False


WAYS = (
    Way("suspended for longer than `suspended_max`", "suspended-too-long", suspend, extra=_LAZY),
    Way("no cut for longer than `cut_age_max`", "cut-too-old", cut_once, extra=_STRICT),
    Way("a drill failed", "drill-failed", lambda rig: drill(rig, 1)),
    Way(
        "no drill for longer than `drill_age_max`",
        "drill-overdue",
        lambda rig: drill(rig, 0),
        extra=_DRILLED,
    ),
    Way("both images on one file system", "one-file-system", prepares=one_disk),
    Way("sparse images, and less room", "no-room", size="4TiB"),
    Way("a first copy that runs", "secondary-unusable", prepares=fill_primary, copy_rate="64KiB"),
    Way("`verify` found a difference", "legs-differ", change_secondary),
    Way("both images are missing at a start", "volume-not-served", lose_both),
)


@dataclass
class OneVolume(RigFiles):
    """`data` alone; its secondary on a disk of its own, if it is `apart`."""

    apart: bool = True

    def secondary_of(self, volume: str) -> Path:
        return self.directory / ("b" if self.apart else "a") / f"{volume}-2.img"


@contextlib.contextmanager
def serving(way: Way, directory: Path) -> Iterator[Rig]:
    """A daemon with these files, on a secondary's disk of its own."""
    with contextlib.ExitStack() as stack:
        (directory / "a").mkdir()
        disk = FaultyDisk(directory / "b")
        stack.callback(disk.close)
        files = OneVolume(
            directory, {"data": way.size}, {}, extra=way.extra, copy_rate=way.copy_rate
        )
        way.prepares(files)
        daemon = Daemon(files.write(), env={"NO_COLOR": "1"})
        stack.callback(daemon.kill)
        daemon.start()
        yield Rig(daemon, {"secondary": disk})


async def measure_way(way: Way, directory: Path) -> HealthRow:
    """The row of it."""
    with serving(way, directory) as rig:
        before = _without_findings(metrics_text(rig.daemon))
        logged = len(rig.daemon.lines())
        await asyncio.to_thread(way.provokes, rig)
        await _until_found(rig, way.kind)
        level = worst_level(what_was_logged(rig, logged))
        return await health_row(OTHER, way.fault, rig, "data", before, level)


async def _until_found(rig: Rig, kind: str) -> None:
    deadline = time.monotonic() + _SECONDS_MAX
    while True:
        found = ask(rig.daemon, "/v1/health?target=data")[1]["findings"]
        if kind in {each["kind"] for each in found}:
            return
        assert time.monotonic() < deadline, f"expected {kind}: {found}"
        await asyncio.sleep(0.05)


def _without_findings(text: str) -> str:
    """Some of these ways are there from the start; good times have no finding."""
    lines = text.splitlines()
    zero = [line.rpartition(" ")[0] + " 0.0" for line in lines if line.startswith("duplexd_findi")]
    rest = [line for line in lines if not line.startswith("duplexd_findi")]
    return "\n".join([*rest, *zero, ""])
