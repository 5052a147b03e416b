"""What the checkpoint file says of the daemon that wrote it, and which boot of the machine this is."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

_HEAD_BYTES = 12
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CUT_ID, _CUT_STATE = 0, 4  # places in the list that a cut is


class Past(NamedTuple):
    """Records up to number `sequence` are known to be durable; `boot` and `closed` are of the daemon that ran then.

    `void` are the cuts that were void by then, `standing` says at which cut the secondary of a suspended pair stood, by the pair's number.
    """

    sequence: int
    boot: str
    closed: bool
    void: frozenset[str]
    standing: dict[int, str]


def read(directory: Path) -> Past | None:
    """From the checkpoint beside, or in, the journal's directory; None if it can't be read."""
    for path in (directory.parent / "checkpoint", directory / "checkpoint"):
        try:
            state = json.loads(zlib.decompress(path.read_bytes()[_HEAD_BYTES:]))
            return Past(int(state["sequence"]), str(state["boot"]), bool(state["closed"]), _void(state), _standing(state))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, zlib.error):
            continue
    return None


def _void(state: dict[str, Any]) -> frozenset[str]:
    cuts = [*state.get("cuts", ()), *(pair["cut"] for pair in state.get("pairs", ()) if pair["cut"])]
    return frozenset(str(cut[_CUT_ID]) for cut in cuts if cut[_CUT_STATE] == "void")


def _standing(state: dict[str, Any]) -> dict[int, str]:
    pairs = [pair for pair in state.get("pairs", ()) if pair["cut"] and pair["state"] == "SUSPENDED"]
    return {int(pair["id"]): str(pair["cut"][_CUT_ID]) for pair in pairs}


def boot_id() -> str:
    """The same text until the machine boots again; "" if that cannot be told."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
