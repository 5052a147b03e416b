"""The markers of comparisons: the legs of a pair differ, they are equal, a scrub has come so far.

None of them moves a pair. Where the legs differ says nothing of what the secondary receives, so a
pair mirrors, is suspended and follows as before; what its owner may do with it is another matter,
see `core/leg_differences.py`. How markers are written is said in `core/markers.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.marker_fields import numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.json_object import Json


class Differ(NamedTuple):
    """The legs of a pair differ in these runs (offset, length), and nowhere else that is known."""

    id: int
    runs: Sequence[tuple[int, int]]

    def pack(self) -> Json:
        return {"m": "differ", "id": self.id, "runs": [list(run) for run in self.runs]}

    @classmethod
    def unpack(cls, fields: Json) -> Differ:
        return cls(int(fields["id"]), [(int(run[0]), int(run[1])) for run in fields["runs"]])


class Same(NamedTuple):
    """The legs of these pairs were compared where they differed, or as a whole, and are equal."""

    volumes: Sequence[int]

    def pack(self) -> Json:
        return {"m": "same", "volumes": list(self.volumes)}

    @classmethod
    def unpack(cls, fields: Json) -> Same:
        return cls(numbers(fields["volumes"]))


class Scrubbed(NamedTuple):
    """A scrub has compared a pair up to `at`; the fields are those of `scrub_state.Scrub`."""

    id: int
    at: int
    began_us: int
    done_us: int
    error: str = ""
    earlier: str = ""

    def pack(self) -> Json:
        own = {"m": "scrubbed", "id": self.id, "at": self.at}
        errors = {"error": self.error, "earlier": self.earlier}
        found = {key: error for key, error in errors.items() if error}
        return {**own, "began": self.began_us, "done": self.done_us, **found}

    @classmethod
    def unpack(cls, fields: Json) -> Scrubbed:
        at, began, done = int(fields["at"]), int(fields["began"]), int(fields["done"])
        errors = (str(fields.get(key, "")) for key in ("error", "earlier"))
        return cls(int(fields["id"]), at, began, done, *errors)
