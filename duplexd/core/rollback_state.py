"""What is recorded of the last rollback or restore of a volume. Pure; what follows from it:
`rollback.py`.
"""

from __future__ import annotations

from typing import NamedTuple

DONE, ABANDONED = "done", "abandoned"
_DOOR = "@restore:"  # names of volumes have no `@`


class Rollback(NamedTuple):
    """To which cut, and since when (us since 1970). `ended`: empty while it is not finished, else
    DONE or ABANDONED, and `time_us` is when that was. `backup`: of a restore, the backup that a
    client writes to the volume, which was made of `cut`; "" of a rollback, whose content comes from
    the secondary.
    """

    id: str
    cut: str
    time_us: int
    ended: str = ""
    backup: str = ""

    @property
    def unfinished(self) -> bool:
        """Whether the volume is half-way, and closed."""
        return not self.ended

    @property
    def goes_back(self) -> bool:
        """Whether it is half-way back to the cut of its secondary."""
        return self.unfinished and not self.backup

    @property
    def closed(self) -> str:
        """Why no client may use the volume; "" if nothing is in the way."""
        if self.ended:
            return ""
        if self.backup:
            return (
                f"its restore from backup {self.backup} is not finished; `duplexctl restore` from "
                "that backup goes on with it, and with --abandon gives it up"
            )
        return (
            f"its rollback to cut {self.cut} is not finished; `duplexctl rollback` to that cut goes"
            " on with it, and with --abandon gives it up"
        )

    def admits(self, volume: str, name: str) -> bool:
        """Whether this is the name by which the restore writes to the volume while it is closed."""
        return self.unfinished and bool(self.backup) and name == door(volume, self.id)


def door(volume: str, restore: str) -> str:
    """What a volume is called as an export by the client that restores it."""
    return f"{volume}{_DOOR}{restore}"


def behind_door(name: str) -> str:
    """The volume that a name such as `door` makes is of; "" for any other name."""
    volume, _, restore = name.partition(_DOOR)
    return volume if restore else ""
