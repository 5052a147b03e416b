"""The markers of a rollback or restore: volumes are closed because they go back to a cut, or to a
backup of one, and opened again.

What is written in between are changes like any others. How markers are written is said in
`core/markers.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.marker_fields import numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.json_object import Json


class Rollback(NamedTuple):
    """These volumes go back to this cut: nobody uses them until RolledBack. `backup`: but who
    restores them from that backup of the cut.
    """

    id: str
    cut: str
    volumes: Sequence[int]
    backup: str = ""

    def pack(self) -> Json:
        more = {"backup": self.backup} if self.backup else {}
        named = {"id": self.id, "cut": self.cut, "volumes": list(self.volumes)}
        return {"m": "rollback", **named, **more}

    @classmethod
    def unpack(cls, fields: Json) -> Rollback:
        backup = str(fields.get("backup", ""))
        return cls(str(fields["id"]), str(fields["cut"]), numbers(fields["volumes"]), backup)


class RolledBack(NamedTuple):
    """They are open again: `whole`, they hold what the cut holds; else a mixture of that and of
    what they held before, because somebody gave it up.
    """

    id: str
    volumes: Sequence[int]
    whole: bool

    def pack(self) -> Json:
        return {
            "m": "rolledback", "id": self.id, "volumes": list(self.volumes), "whole": self.whole
        }  # fmt: skip

    @classmethod
    def unpack(cls, fields: Json) -> RolledBack:
        return cls(str(fields["id"]), numbers(fields["volumes"]), bool(fields["whole"]))
