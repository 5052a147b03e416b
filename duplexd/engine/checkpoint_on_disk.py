"""The checkpoint of a controller on its disk, and the change files that it names.

Both are in one hand because their order is the promise: a map is durable before the checkpoint
names it, and is removed only after one that does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core.ledger import UNCOMMITTED
from duplexd.core.pair_states import SIMPLEX, SUSPENDED
from duplexd.engine.change_files import ChangeFiles, stored_in
from duplexd.journal import checkpoint_file as checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.json_object import Json
    from duplexd.runtime.disk import Disk

UNKNOWN_MOUNT = ""  # in a checkpoint: whether the journal after it has lost records is not known


class CheckpointFile:
    """Where the checkpoint is. Blocking. `stored`: which change maps the last one that this run
    wrote has in files, by volume and the id of a cut.
    """

    def __init__(self, disk: Disk, state_dir: str) -> None:
        self._disk = disk
        self.path = f"{state_dir}/checkpoint"
        self.changes = ChangeFiles(disk, state_dir)
        self.stored: dict[int, dict[str, str]] = {}

    def exists(self) -> bool:
        """Whether there is one."""
        return self._disk.exists(self.path)

    def read(self) -> Json:
        """What it says. Raises DamageError, OSError."""
        return checkpoint.unpack(self._disk.read_file(self.path), self.path)

    def mount(self) -> str:
        """Of the file system it is on, on this boot; "" if that is not known."""
        try:
            return self._disk.mount(self.path)
        except OSError:
            return ""

    def replace(self, saved: Json) -> None:
        """Replace it, atomically and durably. Raises OSError: the old one stays."""
        self._disk.replace_file(self.path, checkpoint.pack(saved))

    def take_over(self, taken: Json, pack: Callable[[Json], Json]) -> None:
        """The same with what a ledger took, which `pack` makes JSON of."""
        stored = self.changes.store(taken)
        self.replace(pack(stored))
        self.stored = stored_in(stored)
        self.changes.remove_others(stored)


def forget_mount(saved: Json) -> Json:
    """A checkpoint whose journal may have lost its end."""
    return {**saved, "mount": UNKNOWN_MOUNT}


def replay_floor(saved: Json) -> int:
    """The number after which a restart from this checkpoint needs records.

    Of a volume that is not served, the journal keeps what its primary lacks until it is full, and
    what a secondary lacks that is halfway. Other volumes are not refused changes for it: then this
    one needs `adopt`. A secondary that goes on does not keep others waiting.
    """
    floor = int(saved["sequence"])
    for pair in saved["pairs"]:
        if pair.get("halfway"):
            continue
        at_cut = pair["state"] == SUSPENDED and (
            not pair["usable"] or pair["cut"] is None or pair["applied"] >= pair["cut"][1]
        )
        # A restart abandons a resync that was not committed: the pair is at its cut again.
        at_cut = at_cut or pair["staging"] == UNCOMMITTED
        if pair["state"] != SIMPLEX and not at_cut and not pair["removed"]:
            floor = min(floor, int(pair["applied"]))
    return floor
