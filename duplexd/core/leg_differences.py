"""Where the legs of a pair are known to differ. Pure.

A comparison that found a difference has found out that one of the images is wrong, and not which
one. That is recorded in the journal, because nothing else would remember it after a restart, and a
wrong image must not become a backup or a primary. Until the record ends:

    suspend, alone or with a group    refused before anything is held: the cut would be a copy of
                                      a state that perhaps never existed
    a cut that the pair is at         void; so is one that a failing secondary makes
    swap, asked for                   refused, unless the caller accepts the differences
    swap, because the primary failed  not done, also at a start: the volume is not served
    a read that the primary refuses   answered from the secondary only where the legs are equal
    writes, mirroring, resync         as ever: they copy changes, and do not ask for the rest
    the copy after an unclean stop    leaves these places out: either image may have the good one

It ends where something has made sure that the legs are equal again: a comparison of the whole pair,
or of these runs after a repair, that finds no difference (marker `same`); a copy that covers all of
them (`copy`, then `equal`); another secondary (`detach`). A write of a client to a run makes both
legs equal there, but it need not cover all of it, so it ends nothing.

The runs are few, or they become one: many places that differ mean that an image is wrong as a
whole, and a list of them would be of no use to anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from duplexd.core.change_map import ChangeMap
    from duplexd.json_object import Json

    Run = tuple[int, int]  # offset, length


DIFFER = "the legs differ"  # in every text about it, so that a client knows it again


class Differences(NamedTuple):
    """What is recorded of one pair. `sequence`, `time_us`: the number and the time at which a
    difference was found first. `copied`: a copy that covers all runs has begun since.
    """

    runs: tuple[Run, ...]
    sequence: int
    time_us: int
    copied: bool = False

    @property
    def nbytes(self) -> int:
        """In how many bytes they may differ."""
        return sum(length for _, length in self.runs)

    def overlaps(self, offset: int, length: int) -> bool:
        """Whether the legs may differ somewhere in this range."""
        return any(at < offset + length and offset < at + size for at, size in self.runs)

    @property
    def text(self) -> str:
        """Where, in words."""
        places = "1 place" if len(self.runs) == 1 else f"{len(self.runs)} places"
        size = format_size(self.nbytes)
        return f"{DIFFER} in {places} ({size}), the first at byte {self.runs[0][0]}"

    def pack(self) -> list[object]:
        """For the checkpoint."""
        return [[list(run) for run in self.runs], self.sequence, self.time_us, self.copied]

    def show(self) -> Json:
        """For status."""
        return {
            "ranges": [list(run) for run in self.runs],
            "bytes": self.nbytes,
            "sequence": self.sequence,
            "time": self.time_us / 1e6,
            "text": self.text,
        }


def unpack(packed: tuple[list[list[int]], int, int, bool]) -> Differences:
    """The reverse of `pack`. Raises ValueError, TypeError."""
    runs, sequence, time_us, copied = packed
    return Differences(
        tuple((int(at), int(length)) for at, length in runs), int(sequence), int(time_us),
        bool(copied),
    )  # fmt: skip


def found(
    before: Differences | None, runs: Iterable[Run], sequence: int, time_us: int
) -> Differences:
    """The record after a comparison that found these runs, at this number and time."""
    if before is not None:
        sequence, time_us = before.sequence, before.time_us
    return Differences(tuple(runs), sequence, time_us)


def joined(runs: Iterable[Run], most: int) -> tuple[Run, ...]:
    """These runs in order, those that touch as one; of more than `most`, their whole span."""
    result: list[Run] = []
    for offset, length in sorted(runs):
        if result and offset <= sum(result[-1]):
            at, before = result[-1]
            result[-1] = (at, max(before, offset + length - at))
        else:
            result.append((offset, length))
    if len(result) > most:
        return ((result[0][0], sum(result[-1]) - result[0][0]),)
    return tuple(result)


def is_covered(runs: Iterable[Run], changed: ChangeMap) -> bool:
    """Whether every grain of these runs is set in the map."""
    with_runs = changed.copy()
    for offset, length in runs:
        with_runs.set(offset, length)
    return with_runs.count == changed.count


def all_equal(verdicts: Collection[bool | None]) -> bool | None:
    """Of several comparisons; None, of which nothing could be compared, is neither."""
    if False in verdicts:
        return False
    return None if None in verdicts else True
