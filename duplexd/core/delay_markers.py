"""The markers of delayed secondaries, and of cuts at a number of the past.

How they are written is said in `core/markers.py`, where all markers are listed; what they do to a
pair is in `core/delayed.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.marker_fields import numbers, pack_maps, unpack_maps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from duplexd.core.change_map import ChangeMap
    from duplexd.json_object import Json


class Horizon(NamedTuple):
    """The secondaries of these DUPLEX pairs may get changes up to number `to`, of which none is
    later than `time_us`. It is durable before the first of these changes is applied, so a restart
    brings them to no later number.
    """

    volumes: Sequence[int]
    to: int
    time_us: int

    def pack(self) -> Json:
        volumes = list(self.volumes)
        return {"m": "horizon", "volumes": volumes, "to": self.to, "time": self.time_us}

    @classmethod
    def unpack(cls, fields: Json) -> Horizon:
        return cls(numbers(fields["volumes"]), int(fields["to"]), int(fields["time"]))


class OfMark(NamedTuple):
    """The mark that a cut is at, "" for none. `members`: the controllers that all go there, and
    `group`, what they are called; empty for this one alone.
    """

    mark: str = ""
    group: str = ""
    members: Sequence[str] = ()

    def pack(self) -> Json:
        """Nothing of a cut that is at no mark."""
        whose = {"group": self.group, "members": list(self.members)} if self.members else {}
        return {"mark": self.mark, **whose} if self.mark else {}

    @classmethod
    def unpack(cls, fields: Json) -> OfMark:
        members = tuple(map(str, fields.get("members", ())))
        return cls(str(fields.get("mark", "")), str(fields.get("group", "")), members)


NO_MARK = OfMark()


class CutAt(NamedTuple):
    """A cut at number `at`, before this record, whose time was `time_us`. `changed`: what the
    volumes changed after it, up to this record.
    """

    id: str
    tag: str
    volumes: Sequence[int]
    at: int
    time_us: int
    changed: Mapping[int, ChangeMap]
    of: OfMark = NO_MARK

    def pack(self) -> Json:
        return {
            "m": "cutat", "id": self.id, "tag": self.tag, "volumes": list(self.volumes),
            "at": self.at, "time": self.time_us, "changed": pack_maps(self.changed),
            **self.of.pack(),
        }  # fmt: skip

    @classmethod
    def unpack(cls, fields: Json) -> CutAt:
        return cls(
            str(fields["id"]),
            str(fields["tag"]),
            numbers(fields["volumes"]),
            int(fields["at"]),
            int(fields["time"]),
            unpack_maps(fields["changed"]),
            OfMark.unpack(fields),
        )


class Onward(NamedTuple):
    """SUSPENDED pairs go on to number `at`, which may have passed, and are at a new cut there."""

    id: str
    tag: str
    volumes: Sequence[int]
    at: int
    time_us: int
    of: OfMark = NO_MARK

    def pack(self) -> Json:
        return {
            "m": "onward", "id": self.id, "tag": self.tag, "volumes": list(self.volumes),
            "at": self.at, "time": self.time_us, **self.of.pack(),
        }  # fmt: skip

    @classmethod
    def unpack(cls, fields: Json) -> Onward:
        return cls(
            str(fields["id"]),
            str(fields["tag"]),
            numbers(fields["volumes"]),
            int(fields["at"]),
            int(fields["time"]),
            OfMark.unpack(fields),
        )
