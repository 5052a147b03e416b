"""What the checkpoint file says of the daemon that wrote it, what the lock says of the one that started last, and which boot of the machine this is."""

from __future__ import annotations

import json
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

_HEAD_BYTES = 12
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CUT_ID, _CUT_STATE = 0, 4  # places in the list that a cut is
_PAUSE_S = 0.05
_LOCK_BYTES_MAX = 64


class Past(NamedTuple):
    """Records up to number `sequence` are known to be durable; `boot` and `closed` are of the daemon that ran then, `controller` is its identity.

    `void` are the cuts that were void by then, `standing` says at which cut the secondary of a suspended pair stood, and `applied` up to
    which number a secondary had all changes, durably, by the pair's number.
    """

    sequence: int
    boot: str
    closed: bool
    void: frozenset[str]
    standing: dict[int, str]
    applied: dict[int, int]
    controller: str

    def replays_from(self, volume: int) -> int:
        """A start of the daemon writes to the images of this volume, again and oldest first, what records after this number say."""
        return min(self.sequence, self.applied.get(volume, self.sequence))


class Start(NamedTuple):
    """What the lock says of the latest start of a daemon: two that are equal are the same one, and as far. `over`: it has recovered."""

    text: str
    identity: tuple[int, ...]

    @property
    def over(self) -> bool:
        """Whether recovery is over, or there never was one: from then on images are as the journal says, also when that daemon is gone."""
        return not self.identity or "serving" in self.text.split()[1:]


def read(directory: Path) -> Past | None:
    """From the checkpoint beside, or in, the journal's directory; None if it can't be read."""
    for path in (directory.parent / "checkpoint", directory / "checkpoint"):
        try:
            state = json.loads(zlib.decompress(path.read_bytes()[_HEAD_BYTES:]))
            pairs = state.get("pairs", ())
            return Past(
                int(state["sequence"]), str(state["boot"]), bool(state["closed"]), _void(state), _standing(pairs),
                {int(pair["id"]): int(pair["applied"]) for pair in pairs}, str(state["controller"]),
            )  # fmt: skip
        except (OSError, ValueError, LookupError, TypeError, AttributeError, zlib.error):
            continue
    return None


def _void(state: dict[str, Any]) -> frozenset[str]:
    cuts = [
        *state.get("cuts", ()),
        *(pair["cut"] for pair in state.get("pairs", ()) if pair["cut"]),
    ]
    return frozenset(str(cut[_CUT_ID]) for cut in cuts if cut[_CUT_STATE] == "void")


def _standing(pairs: list[dict[str, Any]]) -> dict[int, str]:
    return {
        int(pair["id"]): str(pair["cut"][_CUT_ID])
        for pair in pairs
        if pair["cut"] and pair["state"] == "SUSPENDED"
    }


def latest_start(directory: Path) -> Start:
    """By the lock beside, or in, the journal's directory. Raises OSError if there is one that can't be read."""
    for path in (directory.parent / "lock", directory / "lock"):
        try:
            with path.open("rb") as file:
                status, text = path.stat(), file.read(_LOCK_BYTES_MAX)
        except FileNotFoundError:
            continue
        return Start(
            text.decode(errors="replace"), (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        )
    return Start("", ())


def await_start(directory: Path, deadline: float) -> Start:
    """The latest start once it is over, or at the deadline (of the monotonic clock) as it is then."""
    while not (start := latest_start(directory)).over and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
    return start


def boot_id() -> str:
    """The same text until the machine boots again; "" if that cannot be told."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
