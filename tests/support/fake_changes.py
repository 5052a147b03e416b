"""What changed between cuts, as a fake controller says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.json_object import Json

SIZE = 1 << 20
GRAIN = 65536


class FakeChanges:
    """`extents` of each volume; `cuts` are the tags of those that are known, oldest first; `asked`:
    since when.
    """

    def __init__(self) -> None:
        self.cuts = ["monday", "tuesday"]
        self.extents = [(0, GRAIN), (4 * GRAIN, 2 * GRAIN), (9 * GRAIN, GRAIN)]
        self.latest: dict[str, str] = {}  # the point of a volume that is called so
        self.why: list[str] = []
        self.most = 8192  # extents of an answer
        self.asked: list[str] = []

    async def show(
        self, names: Sequence[str], since: str, until: str | None, offset: int, extents_max: int
    ) -> Json:
        self.asked.append(since)
        for point in (since, until):
            if point is not None and not (
                self._number(point) or (self.latest and point == "latest")
            ):
                raise NotFoundError(f"{point!r} is not a cut for which changes are remembered")
        left = min(self.most, extents_max)
        return {"volumes": [self._row(name, since, until, offset, left) for name in names]}

    def _row(self, name: str, since: str, until: str | None, offset: int, most: int) -> Json:
        later = [extent for extent in self.extents if extent[0] >= offset]
        shown, rest = later[:most], later[most:]
        return {
            "name": name,
            "size": SIZE,
            "grain_bytes": GRAIN,
            "since": self._point(since),
            "until": self._point(self.latest[name] if until == "latest" else until),
            "changed_bytes": sum(length for _, length in self.extents),
            "exact": not self.why,
            "why": self.why,
            "extents": [{"offset": start, "length": length} for start, length in shown],
            "next_offset": rest[0][0] if rest else None,
        }

    def _number(self, point: str) -> int:
        """Of a cut, by its id, or the newest of that tag; 0 if it is not known."""
        known = ((n, {tag, f"{n:016x}"}) for n, tag in enumerate(self.cuts, 1))
        return max((number for number, names in known if point in names), default=0)

    def _point(self, tag: str | None) -> Json:
        if tag is None:
            return {"cut": None, "tag": "", "sequence": 99, "time": None, "verdict": None}
        number = self._number(tag)
        return {
            "cut": f"{number:016x}",
            "tag": self.cuts[number - 1],
            "sequence": number,
            "time": 1_795_000_000.0 + number,
            "verdict": "consistent",
        }
