"""The files of a daemon as a set that tests exchange, restore, move and damage while it is down."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from duplexd.engine.checkpoint_on_disk import CheckpointFile
from duplexd.engine.recovery.identify import Evidence
from duplexd.engine.recovery.read import read_journal
from duplexd.limits import EngineLimits
from duplexd.runtime.clock import RealClock
from duplexd.runtime.disk import RealDisk

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config
    from duplexd.core.identity import Judgement
    from duplexd.images.probe import Found

MARK = "user.duplexd.image"


class ImageSet(NamedTuple):
    """What a daemon left in `directory`; `old` is a copy of the set from an earlier start of it."""

    directory: Path
    old: Path

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def primary(self, volume: str = "data") -> Path:
        return self.directory / "a" / f"{volume}.img"

    def secondary(self, volume: str = "data") -> Path:
        return self.directory / "b" / f"{volume}.img"

    def was(self, image: Path) -> Path:
        """The same image in the older set."""
        return self.old / image.relative_to(self.directory)


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def copy_set(source: Path, target: Path) -> Path:
    """As `cp -a` does: with times and extended attributes."""
    run("cp", "-a", "--sparse=always", source, target)
    return target


def overwrite(source: Path, target: Path) -> None:
    """As `cp` does over an existing file: the inode and its mark stay, the time is now."""
    size = source.stat().st_size
    with source.open("rb") as read, target.open("r+b") as write:
        write.truncate(size)
        shutil.copyfileobj(read, write)


def exchange(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def dated_as_before(path: Path) -> int:
    """A time of modification, to be put back with `date`."""
    return path.stat().st_mtime_ns


def date(path: Path, mtime_ns: int) -> None:
    os.utime(path, ns=(mtime_ns, mtime_ns))


def flip(path: Path, offset: int) -> None:
    """Change one bit, and nothing else: not the time either."""
    before = dated_as_before(path)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
    date(path, before)


def judged(config: Config) -> dict[tuple[str, str], Judgement]:
    """What a start would say of each image that is there, by volume and role."""
    disk = RealDisk()
    file = CheckpointFile(disk, str(config.controller.state_dir))
    boot = RealClock().boot_id()
    journal = read_journal(
        disk, file, config.controller, boot, EngineLimits(), lambda *_progress: None
    )
    try:
        evidence, known = Evidence(journal), journal.ledger.known()
        found: dict[tuple[str, str], Judgement] = {}
        for name, volume in config.volumes.items():
            legs = {"primary": str(volume.primary), "secondary": str(volume.secondary)}
            seen: dict[str, Found | None] = dict.fromkeys(legs)
            for role, path in legs.items():
                if Path(path).exists():
                    leg = disk.open(path)
                    seen[role] = evidence.look(known.get(name), leg, volume.mode)
                    leg.close()
            if name in known:
                both = evidence.judge(known[name], volume.mode, seen["primary"], seen["secondary"])
            else:
                primary, secondary = seen["primary"], seen["secondary"]
                both = (
                    primary and evidence.judge_new(primary),
                    secondary and evidence.judge_new(secondary),
                )
            found |= {
                (name, role): judgement
                for role, judgement in zip(legs, both, strict=True)
                if judgement is not None
            }
        return found
    finally:
        journal.ring.close()
