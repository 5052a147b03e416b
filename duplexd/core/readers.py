"""Who reads the secondaries at a cut, and what waits for them. Pure.

A backup reads for hours, and a resync in the middle of it makes a copy of no point in time that
nobody notices. So a cut has readers, and a marker that takes a secondary away from its cut is
refused while there is one. That is decided here and asked by `marker_check`, which all markers
pass: a command that forgot to ask cannot move a secondary either.

| kind of reader | known by | ends |
|---|---|---|
| named | its name, in the journal: survives a restart | by a command, or with the cut |
| connection | its peer, while the daemon runs | when it disconnects, or with the cut |

A failure of the secondary is not refused: the pair leaves the cut by it, and its readers end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core import markers
from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.backend import Reader
    from duplexd.core.pair import PairRecord
    from duplexd.json_object import Json

_LISTED = 5


class Readers:
    """Of all pairs. Connections are kept here, by number of the volume; the others in the
    records.
    """

    def __init__(self, pairs: Mapping[int, PairRecord]) -> None:
        self._pairs = pairs
        self._connected: dict[int, dict[Reader, str]] = {}

    def join(self, number: int, reader: Reader, peer: str) -> None:
        """A connection of `peer` reads this volume's secondary."""
        self._connected.setdefault(number, {})[reader] = peer

    def leave(self, number: int, reader: Reader) -> None:
        """It does so no more. One that had ended already is no error."""
        there = self._connected.get(number, {})
        there.pop(reader, None)
        if not there:
            self._connected.pop(number, None)

    def clear(self, number: int) -> dict[Reader, str]:
        """All connections of a volume, with their peers; they count no more."""
        return self._connected.pop(number, {})

    def names(self, number: int) -> list[str]:
        """All readers of a volume, as people know them; the named ones first."""
        record = self._pairs.get(number)
        named = record.readers if record is not None else {}
        return [*named, *self._connected.get(number, {}).values()]

    def show(self, number: int) -> list[Json]:
        """All readers of a volume, as status shows them."""
        record = self._pairs.get(number)
        named = record.readers if record is not None else {}
        return [
            *({"name": name, "kind": "named", "since": us / 1e6} for name, us in named.items()),
            *(
                {"name": peer, "kind": "connection", "since": None}
                for peer in self._connected.get(number, {}).values()
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

    def refuse(self, numbers: Iterable[int]) -> None:
        """Raises WrongStateError if one of these volumes has a reader."""
        if found := [text for number in numbers if (text := self.why_not(number))]:
            more = f" (and {len(found) - _LISTED} more volumes)" if len(found) > _LISTED else ""
            raise WrongStateError(
                f"{'; '.join(found[:_LISTED])}{more}: wait until they have ended, end one with "
                "`duplexctl release-reader TARGET NAME`, or end all of them with --force"
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
