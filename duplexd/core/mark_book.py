"""Marks: consistent points that suspend nobody. Which are remembered, and what a checkpoint has.

A mark is a cut in everything but that: a marker at one position of the sequence, of one id on all
controllers of a group, with the same votes and the same verdict (`core/cut_states.py`). So it is
the same type. It is kept apart from the cuts because it is none where a cut means a copy: no
secondary is there, no backup is of it, it makes no pair's last cut younger. And there are many:
they are counted on their own, so that no mark takes the place of a cut.

One of this controller alone is consistent with its marker, because nothing has to come to be there.
One of a group is prepared once its gates were opened in time and its marker is durable.

In a checkpoint, most marks are of the same volumes and controllers, so those are written once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core import cut_states
from duplexd.core.cut import Cut
from duplexd.limits import MARKS_KEPT_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duplexd.core.cut_markers import Mark
    from duplexd.json_object import Json

    Whose = tuple[str, tuple[str, ...], tuple[int, ...]]  # group, members, runs of volumes


class MarkBook:
    """`known`: the latest marks by id, oldest first; at most `kept_max`, which the configuration
    says once a start has read the journal.
    """

    def __init__(self) -> None:
        self.known: dict[str, Cut] = {}
        self.kept_max = MARKS_KEPT_MAX
        self._whose: dict[Whose, Whose] = {}  # shared: a thousand marks cost one of each

    def make(self, marker: Mark, of: tuple[int, ...], sequence: int, time_us: int) -> None:
        """One was made; `of`: its volumes, as `Cut.of` has them."""
        alone = not marker.members
        state = cut_states.CONSISTENT if alone else cut_states.CUT
        whose = marker.group, tuple(marker.members), of
        self._add(Cut(marker.id, sequence, time_us, marker.tag, state), whose)
        self._forget()

    def keep(self, kept_max: int) -> None:
        """Remember so many from now on."""
        self.kept_max = kept_max
        self._forget()

    def latest(self, volumes: Sequence[int]) -> Cut | None:
        """The newest that is consistent, and of all these volumes."""
        newest_first: Iterator[Cut] = reversed(self.known.values())
        return next(
            (
                mark
                for mark in newest_first
                if mark.state == cut_states.CONSISTENT
                and all(mark.is_of([volume]) for volume in volumes)
            ),
            None,
        )

    def _add(self, mark: Cut, whose: Whose) -> None:
        mark.group, mark.members, mark.of = self._whose.setdefault(whose, whose)
        self.known[mark.id] = mark

    def _forget(self) -> None:
        """The oldest that is decided, or else the oldest: as long as a mark is in doubt, a
        coordinator may ask what became of it.
        """
        while len(self.known) > self.kept_max:
            newest = next(reversed(self.known))
            decided = (key for key, mark in self.known.items() if mark.verdict and key != newest)
            del self.known[next(decided, next(iter(self.known)))]
        if len(self._whose) > 2 * len(self.known) + 1:
            used = {(mark.group, mark.members, mark.of) for mark in self.known.values()}
            self._whose = {whose: whose for whose in used}

    # ---------------------------------------------------------------------------- checkpoints

    def pack(self) -> Json:
        """For the checkpoint; empty if there are none."""
        if not self.known:
            return {}
        places: dict[Whose, int] = {}
        rows = [
            [
                mark.id, mark.sequence, mark.time_us, mark.tag, mark.state,
                places.setdefault((mark.group, mark.members, mark.of), len(places)),
            ]
            for mark in self.known.values()
        ]  # fmt: skip
        return {"of": [[group, list(m), list(of)] for group, m, of in places], "marks": rows}

    def restore(self, packed: Json) -> None:
        """The reverse of `pack`. Raises KeyError, IndexError, TypeError, ValueError."""
        self.known, self._whose = {}, {}
        of = [
            (str(group), tuple(map(str, members)), tuple(map(int, numbers)))
            for group, members, numbers in packed.get("of", ())
        ]
        for mark_id, sequence, time_us, tag, state, place in packed.get("marks", ()):
            self._add(Cut(str(mark_id), int(sequence), int(time_us), str(tag), state), of[place])
