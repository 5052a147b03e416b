"""The faults of a simulated disk: errors, torn writes, no space; when, and at which paths."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass


@dataclass(slots=True)
class Fault:
    """`after` calls succeed, then `times` calls fail (None: all of them). A torn write writes a
    part before it fails.
    """

    error: int
    operation: str | None  # None: any
    after: int
    times: int | None
    torn: bool = False

    def strikes(self, operation: str, is_write: bool) -> bool:
        if self.torn and not is_write:
            return False
        if self.operation is not None and self.operation != operation:
            return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0

    def raised(self, path: str) -> OSError:
        return OSError(self.error, os.strerror(self.error), path)


class Faults:
    """Faults by path. A path covers itself and everything below it."""

    def __init__(self) -> None:
        self._faults: dict[str, list[Fault]] = {}
        self._full: set[str] = set()
        self._copying: set[str] = set()

    def add(self, path: str, fault: Fault) -> None:
        self._faults.setdefault(path, []).append(fault)

    def fill(self, path: str, copies: bool = False) -> None:
        self._full.add(path)
        if copies:
            self._copying.add(path)

    def heal(self, path: str) -> None:
        self._faults.pop(path, None)
        self._full.discard(path)
        self._copying.discard(path)

    def due(self, operation: str, path: str, is_write: bool) -> Fault | None:
        for above, faults in self._faults.items():
            if covers(above, path):
                for fault in faults:
                    if fault.strikes(operation, is_write):
                        return fault
        return None

    def any(self, path: str) -> bool:
        """Whether something is, or was, wrong with it since it was healed."""
        return any(covers(above, path) for above in (*self._faults, *self._full))

    def full(self, path: str) -> bool:
        return any(covers(above, path) for above in self._full)

    def copies(self, path: str) -> bool:
        """Whether it is full, and a write over what is there needs room, too."""
        return any(covers(above, path) for above in self._copying)


def covers(above: str, path: str) -> bool:
    return path == above or path.startswith(above.rstrip("/") + "/")


def no_space(path: str) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
