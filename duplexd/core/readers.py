"""Who reads the secondaries at a cut, and what waits for them. Pure.

A backup reads for hours, and a resync in the middle of it makes a copy of no point in time that
nobody notices. So a cut has readers, and a marker that takes a secondary away from its cut is
refused while there is one. That is decided here and asked by `marker_check`, which all markers
pass: a command that forgot to ask cannot move a secondary either.

| kind of reader | known by | ends |
|---|---|---|
| named | its name, in the journal: survives a restart | by a command, or with the cut |
| connection | its peer, while the daemon runs | when it disconnects, or with the cut |
| clone | its name, while the daemon runs | when it is dropped, or with the cut |

A failure of the secondary is not refused: the pair leaves the cut by it, and its readers end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import markers
from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.backend import Reader
    from duplexd.core.pair import PairRecord
    from duplexd.json_object import Json

_LISTED = 5
NAMED, CONNECTION, CLONE = "named", "connection", "clone"


class Who(NamedTuple):
    """A reader that is not in the journal, as people know it. `since`: seconds since 1970."""

    name: str
    kind: str = CONNECTION
    since: float | None = None


class Readers:
    """Of all pairs. Connections and clones are kept here, by number of the volume; the others in
    the records.
    """

    def __init__(self, pairs: Mapping[int, PairRecord]) -> None:
        self._pairs = pairs
        self._connected: dict[int, dict[Reader, Who]] = {}

    def join(self, number: int, reader: Reader, who: Who) -> None:
        """It reads this volume's secondary."""
        self._connected.setdefault(number, {})[reader] = who

    def leave(self, number: int, reader: Reader) -> None:
        """It does so no more. One that had ended already is no error."""
        there = self._connected.get(number, {})
        there.pop(reader, None)
        if not there:
            self._connected.pop(number, None)

    def clear(self, number: int) -> dict[Reader, Who]:
        """All connections and clones of a volume; they count no more."""
        return self._connected.pop(number, {})

    def names(self, number: int) -> list[str]:
        """All readers of a volume, as people know them; the named ones first."""
        record = self._pairs.get(number)
        named = record.readers if record is not None else {}
        return [*named, *(who.name for who in self._connected.get(number, {}).values())]

    def show(self, number: int) -> list[Json]:
        """All readers of a volume, as status shows them."""
        record = self._pairs.get(number)
        named = record.readers if record is not None else {}
        return [
            *({"name": name, "kind": NAMED, "since": us / 1e6} for name, us in named.items()),
            *(
                {"name": who.name, "kind": who.kind, "since": who.since}
                for who in self._connected.get(number, {}).values()
            ),
        ]

    def fold(self, marker: markers.Reader | markers.Unread, time_us: int) -> None:
        """A named one begins, or some end; for the ledger alone."""
        for number in marker.volumes:
            readers = self._pairs[number].readers
            if isinstance(marker, markers.Reader):
                readers[marker.name] = time_us
            else:
                for name in marker.names:
                    readers.pop(name, None)

    def refuse(self, numbers: Iterable[int], force: bool = True) -> None:
        """Raises WrongStateError if one of these volumes has a reader. `force`: whether the
        command has an option that ends them.
        """
        if found := [text for number in numbers if (text := self.why_not(number))]:
            more = f" (and {len(found) - _LISTED} more volumes)" if len(found) > _LISTED else ""
            raise WrongStateError(
                f"{'; '.join(found[:_LISTED])}{more}: wait until they have ended, or end one with"
                " `duplexctl release-reader TARGET NAME`, a clone with `duplexctl drop-clone TARGET"
                f" NAME`{', or all of them with --force' if force else ''}"
            )

    def why_not(self, number: int) -> str:
        """Who reads a volume's secondary, in words; "" if nobody does."""
        names = self.names(number)
        if not names:
            return ""
        pair = self._pairs[number]
        cut = pair.cut.id if pair.cut is not None else ""
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        return f"{pair.name} is read at cut {cut} by {', '.join(names[:_LISTED])}{more}"
