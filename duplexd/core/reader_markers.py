"""The markers of readers with a name: one began to read secondaries at their cut, or ended.

Neither moves a pair: they say who must end before it may be moved, see `core/readers.py`. How
markers are written is said in `core/markers.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.marker_fields import numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.json_object import Json


class Reader(NamedTuple):
    """Somebody, by this name, reads the secondaries of these suspended pairs."""

    name: str
    volumes: Sequence[int]

    def pack(self) -> Json:
        return {"m": "reader", "name": self.name, "volumes": list(self.volumes)}

    @classmethod
    def unpack(cls, fields: Json) -> Reader:
        return cls(str(fields["name"]), numbers(fields["volumes"]))


class Unread(NamedTuple):
    """The readers of these names read the secondaries of these pairs no more."""

    names: Sequence[str]
    volumes: Sequence[int]

    def pack(self) -> Json:
        return {"m": "unread", "names": list(self.names), "volumes": list(self.volumes)}

    @classmethod
    def unpack(cls, fields: Json) -> Unread:
        return cls([str(name) for name in fields["names"]], numbers(fields["volumes"]))
