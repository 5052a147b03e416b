"""What the checkpoint file says of the daemon that wrote it, and which boot of the machine this is."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import NamedTuple

_HEAD_BYTES = 12
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Past(NamedTuple):
    """Records up to number `sequence` are known to be durable; `boot` and `closed` are of the daemon that ran then."""

    sequence: int
    boot: str
    closed: bool


def read(directory: Path) -> Past | None:
    """From the checkpoint beside, or in, the journal's directory; None if it can't be read."""
    for path in (directory.parent / "checkpoint", directory / "checkpoint"):
        try:
            state = json.loads(zlib.decompress(path.read_bytes()[_HEAD_BYTES:]))
            return Past(int(state["sequence"]), str(state["boot"]), bool(state["closed"]))
        except (OSError, ValueError, KeyError, TypeError, zlib.error):
            continue
    return None


def boot_id() -> str:
    """The same text until the machine boots again; "" if that cannot be told."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
