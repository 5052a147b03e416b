"""Faults and parts: what is broken, and what has to happen for it to be noticed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.reliability.rig import KIB, MIB, SECTOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.fuse import ActiveFault, FaultyDisk


@dataclass(frozen=True)
class Case:
    """`breaks` gets the disk and the pattern of the files of the part."""

    part: str
    fault: str
    breaks: Callable[[FaultyDisk, str], ActiveFault | None]
    # what a client or an operator does meanwhile: "load" writes more than the journal takes
    trigger: str = "load"
    # the load cannot end while the fault lasts
    waits: bool = False

    @property
    def name(self) -> str:
        return f"{self.part}: {self.fault}"


def fails(operation: str, skip: int = 0) -> Callable[[FaultyDisk, str], ActiveFault]:
    return lambda disk, files: disk.fail(operation, files, skip=skip)


def bad_sector(disk: FaultyDisk, files: str) -> ActiveFault:
    return disk.fail("read", files, start=SECTOR, end=SECTOR + 4 * KIB, until_written=True)


def hangs(disk: FaultyDisk, files: str) -> ActiveFault:
    """All that the part is asked for, in the midst of the load."""
    return disk.hang("", files, skip=50)


def full(room_bytes: int) -> Callable[[FaultyDisk, str], None]:
    return lambda disk, _: disk.fill(room_bytes)


PRIMARY, SECONDARY, JOURNAL = "primary", "secondary", "journal"
_MIDST = 50  # of the load: so many operations pass

CASES = (
    Case(PRIMARY, "bad sector", bad_sector, trigger="read sector"),
    Case(PRIMARY, "read error", fails("read"), trigger="read"),
    Case(PRIMARY, "write error", fails("write fallocate", _MIDST)),
    Case(PRIMARY, "sync error", fails("sync")),
    Case(PRIMARY, "hang", hangs),
    Case(PRIMARY, "disk full", full(4 * MIB)),
    Case(SECONDARY, "read error", fails("read"), trigger="verify"),
    Case(SECONDARY, "write error", fails("write fallocate", _MIDST)),
    Case(SECONDARY, "sync error", fails("sync")),
    Case(SECONDARY, "hang", hangs),
    Case(SECONDARY, "disk full", full(4 * MIB)),
    Case(JOURNAL, "read error", fails("read"), trigger="resync"),
    Case(JOURNAL, "write error", fails("write", _MIDST)),
    Case(JOURNAL, "sync error", fails("sync")),
    Case(JOURNAL, "hang", hangs, waits=True),
    Case(JOURNAL, "disk full", full(0)),
)
