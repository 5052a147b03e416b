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
    """`breaks` gets the disk and the pattern of the files of the part. `client` and `state` are
    what is promised, and asserted; the rest of a row is only measured.
    """

    part: str
    fault: str
    breaks: Callable[[FaultyDisk, str], ActiveFault | None]
    client: str
    state: str
    # what a client or an operator does meanwhile: "load" writes more than the journal takes
    trigger: str = "load"
    # the load cannot end while the fault lasts
    waits: bool = False
    event: str = ""  # that is to be logged, beside the state

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


def hangs_at_once(disk: FaultyDisk, files: str) -> ActiveFault:
    return disk.hang("", files)


def does_not_write(disk: FaultyDisk, files: str) -> ActiveFault:
    return disk.hang("write", files)


def unopenable(disk: FaultyDisk, files: str) -> ActiveFault:
    return disk.fail("open read", files)


def full(room_bytes: int) -> Callable[[FaultyDisk, str], None]:
    return lambda disk, _: disk.fill(room_bytes)


def full_without_reserve(disk: FaultyDisk, _: str) -> None:
    """Nor has a checkpoint the room that is kept for it."""
    for reserve in disk.path.rglob("reserve.checkpoint"):
        reserve.unlink()
    disk.fill(0)


PRIMARY, SECONDARY, JOURNAL = "primary", "secondary", "journal"
_MIDST = 50  # of the load: so many operations pass

NO_ERROR = "no error"
DUPLEX = "DUPLEX"
FAILED_SECONDARY = "SUSPENDED by secondary error"
UNREAD_JOURNAL = "SUSPENDED by journal error"
SWAPPED = f"{FAILED_SECONDARY} (swapped)"
NO_CONNECTION = "no connection"
NO_DAEMON = "no daemon"
FAILING_START = "start that fails"
REFUSED = "during the load: write EIO; then: write EIO, flush EIO"

CASES = (
    Case(
        PRIMARY, "bad sector", bad_sector, NO_ERROR, DUPLEX, "read sector", event="range-repaired"
    ),
    Case(PRIMARY, "read error", fails("read"), NO_ERROR, SWAPPED, trigger="read", event="swapped"),
    Case(
        PRIMARY, "write error", fails("write fallocate", _MIDST), NO_ERROR, SWAPPED, event="swapped"
    ),
    Case(PRIMARY, "sync error", fails("sync"), NO_ERROR, SWAPPED, event="swapped"),
    Case(PRIMARY, "hang", hangs, NO_ERROR, SWAPPED, event="swapped"),
    Case(PRIMARY, "disk full", full(4 * MIB), NO_ERROR, SWAPPED, event="swapped"),
    Case(PRIMARY, "unreadable at a start", unopenable, NO_ERROR, SWAPPED, "start"),
    Case(PRIMARY, "hang at a start", hangs_at_once, NO_ERROR, SWAPPED, "start"),
    Case(SECONDARY, "read error", fails("read"), NO_ERROR, DUPLEX, trigger="verify"),
    Case(SECONDARY, "write error", fails("write fallocate", _MIDST), NO_ERROR, FAILED_SECONDARY),
    Case(SECONDARY, "sync error", fails("sync"), NO_ERROR, FAILED_SECONDARY),
    Case(SECONDARY, "hang", hangs, NO_ERROR, FAILED_SECONDARY),
    Case(SECONDARY, "disk full", full(4 * MIB), NO_ERROR, FAILED_SECONDARY),
    Case(SECONDARY, "unreadable at a start", unopenable, NO_ERROR, FAILED_SECONDARY, "start"),
    Case(SECONDARY, "hang at a start", hangs_at_once, NO_ERROR, FAILED_SECONDARY, "start"),
    Case(JOURNAL, "read error", fails("read"), NO_ERROR, UNREAD_JOURNAL, trigger="resync"),
    Case(JOURNAL, "write error", fails("write", _MIDST), REFUSED, DUPLEX),
    Case(JOURNAL, "sync error", fails("sync"), REFUSED, DUPLEX),
    Case(JOURNAL, "hang", hangs, "then: write waits, flush waits", DUPLEX, waits=True),
    Case(
        JOURNAL,
        "disk full",
        full_without_reserve,
        "during the load: write ENOSPC; then: write ENOSPC",
        DUPLEX,
    ),
    Case(JOURNAL, "hang at a start", hangs_at_once, NO_CONNECTION, NO_DAEMON, FAILING_START),
    Case(
        JOURNAL, "writes hang at a start", does_not_write, NO_CONNECTION, NO_DAEMON, FAILING_START
    ),
)
