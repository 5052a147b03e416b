"""The test's own record of the journal: each change by its number, so that a volume can be rebuilt
as of any number.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

from duplexd.journal.format import MARKER, SEAL, TRIM, WRITE, ZERO, unpack_marker
from duplexd.journal.recover import Walk
from duplexd.journal.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EVERYTHING = 1 << 60


@dataclass(slots=True)
class Entry:
    """A change, or, with `kind` MARKER, the birth of a volume. What a power cut left behind has a
    number between two.
    """

    sequence: float
    kind: int
    volume: int
    offset: int
    data: bytes


@dataclass(slots=True)
class History:
    """All lives of one controller. `lost` are changes that a crash took from the journal, by
    volume: the legs may hold some of them.
    """

    entries: list[Entry] = field(default_factory=list)
    bases: dict[int, bytes] = field(default_factory=dict)  # what a volume held at its birth
    unseen: set[int] = field(default_factory=set)  # volumes whose image is not recorded yet
    lost: dict[int, list[Entry]] = field(default_factory=dict)
    times: dict[int, int] = field(default_factory=dict)  # of records by number, us since 1970
    tail: int = 0  # where the last recovery found the end of the journal
    refused: dict[float, Entry] = field(
        default_factory=dict
    )  # taken back, but a power cut may take that back
    # What a swap of a volume goes back to: a number, or None if it loses nothing
    gives_up: Callable[[int], int | None] = lambda _volume: None
    # What the image of a new volume holds, by name and size
    found_at_birth: Callable[[str, int], bytes] = lambda _name, size: bytes(size)
    _given: set[float] = field(default_factory=set)  # all numbers that stand
    _pending: list[Entry] = field(default_factory=list)

    def truncate(self, tail: int) -> None:
        """Recovery found the journal's end at `tail`: later numbers will be used again."""
        self.tail = tail
        self.times = {number: us for number, us in self.times.items() if number <= tail}
        self._settle(kept=False)  # died before they were written, or in it
        self.entries += [
            entry
            for entry in self.refused.values()
            if entry.sequence <= tail and entry.sequence not in self._given
        ]
        self.entries.sort(key=lambda entry: entry.sequence)
        self._given = {number for number in self._given if number <= tail} | {
            entry.sequence for entry in self.entries
        }
        # A power cut while the start cuts them off may bring them back, see `begun`
        self.refused = {number: each for number, each in self.refused.items() if number > tail}
        for entry in self.entries:
            if entry.sequence > tail:
                if entry.kind == MARKER:
                    self.bases.pop(entry.volume, None)
                else:
                    self.lost.setdefault(entry.volume, []).append(entry)
        self.entries = [entry for entry in self.entries if entry.sequence <= tail]

    def begun(self) -> None:
        """A start has ended: what it has cut off does not come back."""
        self.refused.clear()

    def content(self, volume: int, sequence: float = EVERYTHING) -> bytes:
        """A volume as of a number."""
        image = bytearray(self.bases[volume])
        for entry in self.entries:
            if entry.volume == volume and entry.sequence <= sequence and entry.kind != MARKER:
                image[entry.offset : entry.offset + len(entry.data)] = entry.data
        return bytes(image)

    def found(self, volume: int, actual: bytes) -> str:
        """Take over what recovery found on a primary; returns what is wrong with it, or "".

        It must hold exactly what the journal has; where changes were lost with the journal's end,
        it may hold any of those.
        """
        expected = self.content(volume)
        lost = self.lost.pop(volume, [])
        if actual == expected:
            return ""
        patched = bytearray(expected)
        for place in (place for place in range(len(actual)) if actual[place] != expected[place]):
            if not any(
                entry.offset <= place < entry.offset + len(entry.data)
                and entry.data[place - entry.offset] == actual[place]
                for entry in lost
            ):
                return (
                    f"byte {place} of volume {volume} is {actual[place]}, neither "
                    f"{expected[place]} as of {self.tail} nor from a change that was lost"
                )
            patched[place] = actual[place]
        self.entries.append(Entry(self.tail + 0.5, WRITE, volume, 0, bytes(patched)))
        return ""

    def seen(self, volume: int, actual: bytes, recorded: bool) -> None:
        """A volume is served. One that has not been written to yet begins with what it holds: a
        crash between its birth and now may have taken back what an older life left there. So it
        does again, unless a checkpoint has `recorded` its image: no client writes before that, and
        what lies at its path at the next start may be another image.
        """
        written = any(each.volume == volume and each.kind != MARKER for each in self.entries)
        if volume in self.unseen and not written:
            self.bases[volume] = actual
            self.lost.pop(volume, None)
        if recorded:
            self.unseen.discard(volume)

    def goes_back(self, volume: int) -> bool:
        """Whether a swap that gives up changes of a volume is about to be written."""
        return any(entry.volume == volume for entry in self._pending)

    def changed_between(self, volume: int, after: float, until: float) -> list[Entry]:
        """The changes of a volume with numbers in (after, until]."""
        return [
            entry
            for entry in self.entries
            if entry.volume == volume and after < entry.sequence <= until and entry.kind != MARKER
        ]

    # What the writer does

    def _appended(
        self, sequence: int, kind: int, volume: int, offset: int, length: int, data: Any
    ) -> None:
        if kind not in {WRITE, ZERO, TRIM}:
            self._given.add(sequence)
        if kind == MARKER:
            marker: Any = unpack_marker(bytes(data))
            if marker["m"] == "volume":
                born = int(marker["id"])
                self._pending.append(Entry(sequence, MARKER, born, 0, b""))
                self.bases[born] = self.found_at_birth(str(marker["name"]), int(marker["size"]))
                self.unseen.add(born)
            elif marker["m"] == "swap":
                gone = [
                    Entry(sequence, WRITE, int(number), 0, self.content(int(number), at))
                    for number in marker["volumes"]
                    if (at := self.gives_up(int(number))) is not None
                ]
                if gone:  # refused, the marker may still be in the journal after a crash
                    self._given.discard(sequence)
                self._pending += gone
        elif kind in (WRITE, ZERO, TRIM):
            self._pending.append(
                Entry(
                    sequence, kind, volume, offset, bytes(data) if kind == WRITE else bytes(length)
                )
            )

    def _settle(self, kept: bool) -> None:
        if kept:
            self.entries += self._pending
            self._given.update(entry.sequence for entry in self._pending)
        else:
            self.refused.update((entry.sequence, entry) for entry in self._pending)
        self._pending = []

    @contextmanager
    def tapped(self) -> Iterator[None]:
        """Listen to every writer, and to every recovery that finds the end of a journal."""
        collect, append_changes, write_changes, append_marker = (
            Writer._collect,
            Writer._append_changes,
            Writer.write_changes,
            Writer.append_marker,
        )
        write, close = Writer.write, Walk.close

        def tapped_collect(
            writer: Writer,
            kind: int,
            volume: int,
            offset: int,
            length: int,
            data: Any,
            size: int,
            flags: int,
            time_us: int,
        ) -> None:
            collect(writer, kind, volume, offset, length, data, size, flags, time_us)
            self.times[writer.sequence] = time_us
            if kind == SEAL:
                self._given.add(writer.sequence)
            else:
                self._appended(writer.sequence, kind, volume, offset, length, data)

        def tapped_append_changes(writer: Writer, changes: Any, first: int, time_us: int) -> int:
            behind = append_changes(writer, changes, first, time_us)
            for change in changes[first:behind]:
                self.times[change.sequence] = time_us
                number, payload = change.volume.id, change.data
                self._appended(
                    change.sequence, change.kind, number, change.offset, change.length, payload
                )
            return behind

        def tapped_write_changes(writer: Writer, changes: Any, time_us: int) -> None:
            with self._outcome(at_once=False):
                write_changes(writer, changes, time_us)

        def tapped_append_marker(writer: Writer, marker: Any, time_us: int) -> int:
            with self._outcome(at_once=False):
                return append_marker(writer, marker, time_us)

        def tapped_write(writer: Writer) -> None:
            with self._outcome(at_once=True):
                write(writer)

        def tapped_close(walk: Walk) -> Any:
            tail = close(walk)
            self.truncate(tail.sequence)
            return tail

        with (
            mock.patch.object(Writer, "_collect", tapped_collect),
            mock.patch.object(Writer, "_append_changes", tapped_append_changes),
            mock.patch.object(Writer, "write_changes", tapped_write_changes),
            mock.patch.object(Writer, "append_marker", tapped_append_marker),
            mock.patch.object(Writer, "write", tapped_write),
            mock.patch.object(Walk, "close", tapped_close),
        ):
            yield

    @contextmanager
    def _outcome(self, at_once: bool) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._settle(kept=False)  # rolled back: those numbers were never given
            raise
        except BaseException:
            self._settle(kept=True)  # died in it: recovery will tell
            raise
        if at_once:
            self._settle(kept=True)
