"""A real daemon with two pairs on failing disks and one on good ones.

`data` is written to while its disks fail. `fs`, in one group with it and on the same disks, holds
an ext4 file system that must come through. `other` has images on a disk that never fails.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.daemon import Daemon, DaemonFiles
from tests.support.fuse import FaultyDisk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

KIB, MIB = 1 << 10, 1 << 20
DATA_BYTES, FS_BYTES, OTHER_BYTES = 32 * MIB, 8 * MIB, 8 * MIB
JOURNAL_BYTES = 16 * MIB
LOAD_BYTES = 24 * MIB  # from the start of `data`; more than the journal takes without a checkpoint
KEPT, PROBED, SECTOR = 25 * MIB, 26 * MIB, 28 * MIB  # places in `data` for what is not load

ANSWER_SECONDS_MAX = 30.0  # for what must not wait for a disk, however busy the machine is

# Short, so that the cases take seconds; docs/reliability.md names the options, not these values.
TIMEOUTS = "secondary_timeout = 1.0\nprimary_timeout = 2.0\n"


@dataclass
class RigFiles(DaemonFiles):
    """`other` lies apart from the disks that fail."""

    volumes: Mapping[str, str | int] = field(
        default_factory=lambda: {"data": DATA_BYTES, "fs": FS_BYTES, "other": OTHER_BYTES}
    )
    groups: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"db": ["data", "fs"]})
    journal_size: str | int = JOURNAL_BYTES

    def primary(self, volume: str) -> Path:
        return self.directory / ("good" if volume == "other" else "a") / f"{volume}.img"

    def secondary_of(self, volume: str) -> Path:
        return self.directory / ("good2" if volume == "other" else "b") / f"{volume}.img"

    def text(self) -> str:
        return super().text().replace("[nbd]", f"{TIMEOUTS}[nbd]", 1)


@dataclass(frozen=True)
class Rig:
    """The daemon and its disks. The journal's disk has all of state_dir."""

    daemon: Daemon
    disks: Mapping[str, FaultyDisk]  # by part

    @property
    def files(self) -> DaemonFiles:
        return self.daemon.files

    def pattern(self, part: str) -> str:
        """The files of a part that fail."""
        return "journal/*" if part == "journal" else "data.img"

    def below(self, part: str, volume: str) -> bytes:
        """An image as it is on its disk, whatever that disk answers."""
        return (self.disks[part].below / f"{volume}.img").read_bytes()

    def status(self) -> Mapping[str, dict[str, object]]:
        """Of the volumes, by name. It has to come, whatever hangs."""
        code, body = self.daemon.request("GET", "/v1/status", timeout=ANSWER_SECONDS_MAX)
        assert code == 200, body
        return {volume["name"]: volume for volume in body["volumes"]}

    def health(self, path: str) -> int:
        return self.daemon.request("GET", path, timeout=ANSWER_SECONDS_MAX)[0]

    def logged(self, after: int) -> list[dict[str, str]]:
        """The log's lines after so many."""
        found = []
        for line in self.daemon.lines()[after:]:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found


@contextlib.contextmanager
def rig(directory: Path) -> Iterator[Rig]:
    """A rig with a ready daemon. At its end nothing of it is left running or mounted."""
    with contextlib.ExitStack() as stack:
        disks = {}
        for part, name in (("primary", "a"), ("secondary", "b"), ("journal", "state")):
            disks[part] = FaultyDisk(directory / name)
            stack.callback(disks[part].close)
        for name in ("good", "good2"):
            (directory / name).mkdir()
        daemon = Daemon(RigFiles(directory).write(), env={"NO_COLOR": "1"})
        stack.callback(daemon.kill)
        for disk in disks.values():  # first of all, so that nothing hangs when the daemon is killed
            stack.callback(disk.lift)
        daemon.start()
        yield Rig(daemon, disks)
