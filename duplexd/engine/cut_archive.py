"""Cuts as every interface shows them: the journal's record, and what this run knows besides.

A verdict must not be shown while it can still change: in a power cut, too, until its marker is
durable. Until then the cut is *unsettled*, and every interface asks here instead of reading the
record. Figures of the hold
and announcements are of this run only; a restart forgets them.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import pair_states
from duplexd.core.cut_states import CONSISTENT, CUT, READY
from duplexd.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from duplexd.core.cut import Cut
    from duplexd.core.ledger import Ledger
    from duplexd.core.pair import Pair
    from duplexd.engine.events import Events
    from duplexd.engine.volumes import Volumes
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits


new_id = partial(secrets.token_hex, 8)  # an id that no cut had


class Figures(NamedTuple):
    """How long writes waited for a cut, once its hold is over, and which volumes it was of."""

    hold: Json | None
    names: list[str]


class CutArchive:
    """All cuts of a controller, as shown. `unsettled`: ids of those whose secondaries are not yet
    known to be durable there, or whose verdict is not. `made` counts the cuts of this run, `marked`
    its marks that were found consistent.
    """

    def __init__(
        self,
        controller_name: str,
        ledger: Ledger,
        volumes: Volumes,
        events: Events,
        limits: EngineLimits,
    ) -> None:
        self._name = controller_name
        self._ledger = ledger
        self._volumes = volumes
        self._events = events
        self._kept_max = limits.cut_figures_kept_max
        self._figures: OrderedDict[str, Figures] = OrderedDict()  # of the latest, oldest first
        self._announced: dict[str, str] = {}  # verdicts by id
        self._last_marked = ("", "")  # id and verdict: settling and ending a hold may both say it
        self.unsettled: set[str] = set()
        self.made = self.marked = 0

    def find(self, cut_id: str) -> Cut:
        """The cut or mark of that id. Raises NotFoundError."""
        cut = self._ledger.cut(cut_id)
        if cut is None:
            raise NotFoundError(
                f"{cut_id!r}: no such cut, or no longer kept; duplexctl cuts lists the known ones"
            )
        return cut

    # -------------------------------------------------------------------------------- figures

    def keep_figures(self, cut: Cut, hold: Json | None, names: list[str]) -> None:
        """Of the latest cuts only: figures have an entry for each volume that had to wait."""
        self._figures[cut.id] = Figures(hold, names)
        self._figures.move_to_end(cut.id)
        while len(self._figures) > self._kept_max:
            self._figures.popitem(last=False)

    def hold_of(self, cut: Cut) -> Json | None:
        """How long writes waited for it, if that is still known."""
        kept = self._figures.get(cut.id)
        return None if kept is None else kept.hold

    # ----------------------------------------------------------------------------- announcing

    def announce(self, cut: Cut) -> None:
        """Emit the event of a group's cut once its verdict is known, and when that changes."""
        verdict = cut.verdict
        if self.is_mark(cut):
            self.announce_marked(cut)
            return
        if verdict is None or self._announced.get(cut.id) == verdict:
            return
        self._announced[cut.id] = verdict
        for old in self._announced.keys() - self._ledger.cuts.keys():
            if self._ledger.cut(old) is None:
                del self._announced[old]
        kept = self._figures.get(cut.id)
        names = kept.names if kept is not None else []
        self.announce_suspended(cut, names or self.show(cut)["volumes"], verdict)

    def is_mark(self, cut: Cut) -> bool:
        """Whether it is a mark, at which no secondary is."""
        return cut.id in self._ledger.book.marks.known

    @property
    def last_mark_time(self) -> float:
        """Of the newest mark that is consistent; 0 if none is kept."""
        mark = self._ledger.book.marks.latest(())
        return mark.time_us / 1e6 if mark is not None else 0.0

    def announce_marked(self, mark: Cut, names: Sequence[str] | None = None) -> None:
        """Emit `marked`, once its verdict is known."""
        verdict = mark.verdict
        if verdict is None or self._last_marked == (mark.id, verdict):
            return
        self._last_marked = mark.id, verdict
        self.marked += verdict == CONSISTENT
        group = {"group": mark.group, "members": list(mark.members)} if mark.members else {}
        self._events.emit(
            "marked",
            volumes=names or [each.name for each in self._volumes.all() if mark.is_of([each.id])],
            mark=mark.id,
            tag=mark.tag,
            verdict=verdict,
            at=mark.sequence,
            **group,
        )

    def announce_suspended(self, cut: Cut, volumes: list[str], verdict: str | None) -> None:
        """Emit `suspended`."""
        hold = {key: each for key, each in (self.hold_of(cut) or {}).items() if key != "buckets"}
        group = {"group": cut.group, "members": list(cut.members)} if cut.members else {}
        self._events.emit(
            "suspended",
            reason=pair_states.BY_COMMAND,
            volumes=volumes,
            cut=cut.id,
            tag=cut.tag,
            verdict=verdict,
            at=cut.sequence,
            hold=hold or None,
            **group,
        )

    # -------------------------------------------------------------------------------- showing

    def state(self, cut: Cut) -> str:
        """READY only once that is known to be durable: a coordinator relies on it."""
        return CUT if cut.state == READY and cut.id in self.unsettled else cut.state

    def verdict(self, cut: Cut) -> str | None:
        """`consistent` only once the secondaries are known to be durable there; `void` at once."""
        unsure = cut.verdict == CONSISTENT and cut.id in self.unsettled
        return None if unsure else cut.verdict

    def consistent_cut_time(self, pair: Pair) -> float | None:
        """When the pair was last cut consistently by a command; None if that is not known."""
        last, time_us = pair.record.last_cut, pair.record.good_cut_us
        if last is not None and self.verdict(last) == CONSISTENT:
            time_us = last.time_us
        return time_us / 1e6 if time_us else None

    def show(self, cut: Cut) -> Json:
        """One cut."""
        return self.show_all([cut])[0]

    def show_all(self, wanted: Iterable[Cut]) -> list[Json]:
        """Cuts, whether secondaries are at them or not."""
        at_cuts: dict[str, list[Pair]] = {}
        for pair in self._volumes.all():
            if pair.cut is not None and pair.state == pair_states.SUSPENDED:
                at_cuts.setdefault(pair.cut.id, []).append(pair)
        return [self._show_one(each, at_cuts.get(each.id, [])) for each in wanted]

    def remembered(self, names: Sequence[str] = ()) -> list[Json]:
        """All that are remembered, by number; with `names`, those of any of these volumes."""
        cuts = sorted(self._ledger.cuts.values(), key=lambda cut: cut.sequence)
        numbers = [self._volumes.by_name[name].id for name in names]
        return self.show_all(cut for cut in cuts if not numbers or cut.is_of(numbers))

    def undecided(self) -> list[Json]:
        """Those of groups without a verdict: in doubt. Marks too."""
        cuts = chain(self._ledger.cuts.values(), self._ledger.book.marks.known.values())
        return self.show_all(cut for cut in cuts if cut.members and cut.verdict is None)

    def _show_one(self, cut: Cut, pairs: list[Pair]) -> Json:
        names = (name for pair in pairs for name in self._ledger.readers.names(pair.id))
        return {
            "id": cut.id,
            "controller": self._name,
            "kind": "mark" if self.is_mark(cut) else "cut",
            **self._common(cut),
            "volumes": [pair.name for pair in pairs],
            "readers": list(dict.fromkeys(names)),
            "hold": self.hold_of(cut),
        }

    def of_pair(self, pair: Pair) -> Json | None:
        """The cut that a pair is suspended at, as its status shows it."""
        cut = pair.cut
        if cut is None or pair.state != pair_states.SUSPENDED:
            return None
        return {"id": cut.id, **self._common(cut)}

    def _common(self, cut: Cut) -> Json:
        return {
            "state": self.state(cut),
            "verdict": self.verdict(cut),
            "sequence": cut.sequence,
            "time": cut.time_us / 1e6,
            "tag": cut.tag,
            "group": cut.group or None,
            "members": list(cut.members),
            "mark": cut.mark or None,
            "canary": cut.grade,
            "why": cut.why or None,
        }
