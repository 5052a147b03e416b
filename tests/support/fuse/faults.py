"""What is to go wrong, and whether it goes wrong now: pure, decided for one operation at a time.

The first fault in force that matches decides: it fails the operation, or puts it aside (a hang)
until the fault is lifted.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

OPERATIONS = frozenset(
    {
        "read",
        "write",
        "sync",
        "fallocate",  # reserve, zero and punch
        "truncate",
        "seek",  # for data and holes
        "open",
        "create",
        "stat",
        "lookup",
        "list",
        "rename",
        "unlink",
        "link",
        "mkdir",
        "attribute",  # chmod, chown, utimes, extended attributes
    }
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One request, as faults see it. `path` is relative to the mount; "." is its root."""

    name: str
    path: str
    offset: int = 0
    length: int = 0  # 0: all of the file
    modifies: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """`error` fails what matches; None lets it hang."""

    operations: tuple[str, ...] = ()  # any, if none is named
    pattern: str = "*"  # of paths, as fnmatch has it
    error: int | None = errno.EIO
    start: int = 0  # only what touches these bytes
    end: int | None = None
    times: int | None = None  # how often; None: until it is lifted
    skip: int = 0  # so many that match pass before it begins
    until_written: bool = False  # a write that covers the range ends it, as a disk remaps a sector
    only_changes: bool = False  # reads and opens for reading pass
    killable: bool = True  # of a hang: a process that waits can be killed

    def __post_init__(self) -> None:
        unknown = set(self.operations) - OPERATIONS
        assert not unknown, f"no such operations: {unknown}; there are {sorted(OPERATIONS)}"

    def matches(self, operation: Operation) -> bool:
        return (
            (not self.operations or operation.name in self.operations)
            and (operation.modifies or not self.only_changes)
            and fnmatchcase(operation.path, self.pattern)
            and self._touches(operation)
        )

    def _touches(self, operation: Operation) -> bool:
        if not operation.length:
            return True
        end = operation.offset + operation.length
        return end > self.start and (self.end is None or operation.offset < self.end)

    def cured_by(self, operation: Operation) -> bool:
        return (
            self.until_written
            and operation.name == "write"
            and fnmatchcase(operation.path, self.pattern)
            and self.end is not None
            and operation.offset <= self.start
            and self.end <= operation.offset + operation.length
        )


@dataclass
class FaultTable:
    """The faults in force, by number, and how often each was met."""

    faults: dict[int, Fault] = field(default_factory=dict)
    met: dict[int, int] = field(default_factory=dict)
    _seen: dict[int, int] = field(default_factory=dict)
    _last: int = 0

    def add(self, fault: Fault) -> int:
        self._last += 1
        self.faults[self._last] = fault
        self.met[self._last] = self._seen[self._last] = 0
        return self._last

    def lift(self, number: int | None = None) -> list[int]:
        """Take one fault, or all, out of force; which they were."""
        lifted = [number] if number is not None else list(self.faults)
        return [one for one in lifted if self.faults.pop(one, None) is not None]

    def meets(self, operation: Operation) -> int | None:
        """The number of the fault that this operation meets. It counts as met."""
        for number, fault in self.faults.items():
            if not fault.matches(operation):
                continue
            self._seen[number] += 1
            over = fault.times is not None and self.met[number] >= fault.times
            if self._seen[number] <= fault.skip or over:
                continue
            self.met[number] += 1
            return number
        return None

    def cure(self, operation: Operation) -> None:
        """A write was done: bad sectors that it covers are good again."""
        cured = [number for number, fault in self.faults.items() if fault.cured_by(operation)]
        for number in cured:
            del self.faults[number]
