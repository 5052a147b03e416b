"""What checkpoint and lock say of the daemons that ran.

Both files belong to a running daemon, which replaces the checkpoint atomically and rewrites the
lock in place. A checkpoint that cannot be read is treated as none: it can only add evidence.
"""

from __future__ import annotations

import fcntl
import json
import time
import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.json_object import Json

_HEAD_BYTES = 12
_CUT_ID, _CUT_STATE = 0, 4  # indexes in the list that a cut is packed as
_PAUSE_S = 0.05
_LOCK_BYTES_MAX = 64


class Past(NamedTuple):
    """A checkpoint: records up to number `sequence` are known to be durable.

    `closed`: the daemon that wrote it was shut down cleanly; `controller` is its identity. `void`
    are the cuts that were void by then, `promised` those whose secondaries were durably at it. By
    the number of the pair, `at_cut` is the cut of a suspended secondary, `applied` the number up to
    which a secondary had all changes, durably, and `sizes` how many bytes the volume had.
    """

    sequence: int
    closed: bool
    void: frozenset[str]
    promised: frozenset[str]
    at_cut: dict[int, str]
    applied: dict[int, int]
    controller: str
    sizes: dict[int, int]

    def replays_from(self, volume: int) -> int:
        """A starting daemon replays the records after this number to the images of this volume."""
        return min(self.sequence, self.applied.get(volume, self.sequence))


class Start(NamedTuple):
    """What the lock says of the latest start of a daemon. Equal values: the same start, as far."""

    text: str
    identity: tuple[int, ...]

    @property
    def over(self) -> bool:
        """Whether recovery is over, or never began: then the images are as the journal says."""
        return not self.identity or "serving" in self.text.split()[1:]


def read(directory: Path) -> Past | None:
    """The checkpoint beside, or in, the journal's directory; None if it cannot be read."""
    for path in (directory.parent / "checkpoint", directory / "checkpoint"):
        try:
            state = json.loads(zlib.decompress(path.read_bytes()[_HEAD_BYTES:]))
            pairs = state.get("pairs", ())
            return Past(
                sequence=int(state["sequence"]),
                closed=bool(state["closed"]),
                void=_cuts_in(state, {"void"}),
                promised=_cuts_in(state, {"ready", "consistent"}),
                at_cut=_at_cut(pairs),
                applied={int(pair["id"]): int(pair["applied"]) for pair in pairs},
                controller=str(state["controller"]),
                sizes={int(pair["id"]): int(pair["size"]) for pair in pairs},
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError, zlib.error):
            continue
    return None


def _cuts_in(state: Json, states: set[str]) -> frozenset[str]:
    cuts = [
        *state.get("cuts", ()),
        *(pair["cut"] for pair in state.get("pairs", ()) if pair["cut"]),
    ]
    return frozenset(str(cut[_CUT_ID]) for cut in cuts if cut[_CUT_STATE] in states)


def _at_cut(pairs: list[Json]) -> dict[int, str]:
    return {
        int(pair["id"]): str(pair["cut"][_CUT_ID])
        for pair in pairs
        if pair["cut"] and pair["state"] == "SUSPENDED"
    }


def latest_start(directory: Path) -> Start:
    """From the lock beside, or in, the journal's directory. Raises OSError if it cannot be read."""
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
    """The latest start, once it is over or the deadline (of the monotonic clock) has passed."""
    while not (start := latest_start(directory)).over and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
    return start


def is_running(directory: Path) -> bool:
    """Whether a daemon holds the lock beside, or in, the journal's directory. Raises OSError if it
    cannot be read.
    """
    for path in (directory.parent / "lock", directory / "lock"):
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            continue
        except BlockingIOError:
            return True
        return False
    return False
