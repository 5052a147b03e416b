"""Time, and which boot of the machine this is.

Deadlines use the monotonic clock; wall-clock time is shown to the user and decides nothing, because
it may jump. The boot id tells recovery whether the page cache survived: after `kill -9` it did,
after a power cut it did not.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Time as a parameter, so that tests can have their own."""

    def monotonic(self) -> float:
        """Seconds that only ever go forward, from an arbitrary start."""

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC. May jump."""

    def boot_id(self) -> str:
        """The same text until the machine boots again; "" if unknown."""


class RealClock:
    """See `Clock`."""

    __slots__ = ()

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)

    def boot_id(self) -> str:
        return read_boot_id(_BOOT_ID)


def read_boot_id(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
