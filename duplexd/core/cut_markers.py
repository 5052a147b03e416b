"""The markers of a cut after it was made: its secondaries are durable there, it is decided, graded;
and a mark, which is a cut that suspends nobody.

They are apart from the other markers because they move a cut alone, in the table
`core/cut_states.py`, and no pair. How they are written is said in `core/markers.py`, where all
markers are listed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.marker_fields import numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.json_object import Json


class Mark(NamedTuple):
    """A consistent point of these volumes, at this record. Their pairs go on as they were.
    `members` names the controllers of a group's mark, else it is empty.
    """

    id: str
    tag: str
    volumes: Sequence[int]
    group: str = ""
    members: Sequence[str] = ()

    def pack(self) -> Json:
        own = {"m": "mark", "id": self.id, "tag": self.tag, "volumes": list(self.volumes)}
        if not self.members:
            return own
        return {**own, "group": self.group, "members": list(self.members)}

    @classmethod
    def unpack(cls, fields: Json) -> Mark:
        own = cls(str(fields["id"]), str(fields["tag"]), numbers(fields["volumes"]))
        members = [str(member) for member in fields.get("members", ())]
        return own._replace(group=str(fields.get("group", "")), members=members)


class Stood(NamedTuple):
    """The secondaries are durable at a cut of this controller alone."""

    cut: str

    def pack(self) -> Json:
        return {"m": "stood", "cut": self.cut}

    @classmethod
    def unpack(cls, fields: Json) -> Stood:
        return cls(str(fields["cut"]))


class Ready(NamedTuple):
    """This controller is prepared to commit a group's cut."""

    cut: str

    def pack(self) -> Json:
        return {"m": "ready", "cut": self.cut}

    @classmethod
    def unpack(cls, fields: Json) -> Ready:
        return cls(str(fields["cut"]))


class Agreed(NamedTuple):
    """A group's cut is committed."""

    cut: str

    def pack(self) -> Json:
        return {"m": "agreed", "cut": self.cut}

    @classmethod
    def unpack(cls, fields: Json) -> Agreed:
        return cls(str(fields["cut"]))


class Void(NamedTuple):
    """A cut is not consistent, or was aborted before it was made."""

    cut: str

    def pack(self) -> Json:
        return {"m": "void", "cut": self.cut}

    @classmethod
    def unpack(cls, fields: Json) -> Void:
        return cls(str(fields["cut"]))


class Grade(NamedTuple):
    """What a canary found on the secondaries of a cut."""

    cut: str
    consistent: bool
    records: int
    detail: str

    def pack(self) -> Json:
        return {"m": "grade", **self._asdict()}

    @classmethod
    def unpack(cls, fields: Json) -> Grade:
        consistent, records = bool(fields["consistent"]), int(fields["records"])
        return cls(str(fields["cut"]), consistent, records, str(fields["detail"]))
