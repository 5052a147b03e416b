"""What changed between the cuts of a volume that are remembered. Pure.

A resync moves a secondary on and forgets what it copied, so a pair alone cannot say what changed
between two of its cuts. A volume therefore keeps its latest cuts, and one change map for each
interval between two neighbours:

    cut 1 ---- map ---- cut 2 ---- map ---- cut 3 ---- live map ---- now

The live map takes each change. A cut freezes it: from then on it never changes, so it is written
to a file once (`engine/change_files.py`) and leaves the memory. The union of neighbouring maps
answers for any two cuts. When the oldest cut is forgotten, the map behind it goes with it; nothing
is merged, because nobody can ask for an interval that begins at no remembered cut.

Never too little: what may have changed without a record widens the live map, and an interval whose
map cannot be read counts as everything. `why` says so. Too much otherwise only by the grain.

Considered and rejected: one map with the number of the last change of each grain (32 times the
memory, and an interval that does not end now has no answer), and reading the journal (it is
dropped after hours, cuts are kept for weeks).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, Protocol

from duplexd.core.marker_fields import pack_map, unpack_map
from duplexd.core.pair_states import SIMPLEX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from duplexd.backend import Change
    from duplexd.core.change_map import ChangeMap
    from duplexd.core.cut import Cut
    from duplexd.core.regions import DirtyRegions
    from duplexd.json_object import Json

# Why an interval may count more than what changed, for people
UNCLEAN = "the daemon did not stop cleanly"
ADOPTED = "another image was adopted as the primary"
GIVEN_UP = "a swap gave up changes"
DIFFERED = "the legs were found to differ"
GREW = "the volume grew, and all that is new of it counts as changed"
UNREADABLE = "the map of an interval cannot be read, so all of the volume counts as changed"

NOTED_MAX = 1024  # grains of a volume: 40 KiB
LATEST = "latest"  # a point: the newest cut that is remembered, and consistent


class KnownCut(NamedTuple):
    """A cut that is remembered, and what changed between the one before it and this one: in `file`,
    or in `changed` until it is there. Neither: the oldest, or nobody knows. `why`: see above.
    """

    id: str
    tag: str
    sequence: int
    time_us: int
    file: str = ""
    changed: ChangeMap | None = None
    why: tuple[str, ...] = ()


class Taken(NamedTuple):
    """A history, for a checkpoint. Frozen maps never change, so only the live one is a copy."""

    cuts: tuple[KnownCut, ...]
    live: ChangeMap
    why: tuple[str, ...]


class ChangeHistory:
    """Of one volume: `cuts`, oldest first, at least one; `live`, what changed since the newest.

    Setting a bit of a sparse map takes as long as all else that is noted of a small write. So
    `note` only lists grains, and they are set many at once, or when `live` is asked for.
    """

    __slots__ = ("_live", "_new_map", "_noted", "cuts", "why")

    def __init__(self, cut: Cut, new_map: Callable[[], ChangeMap]) -> None:
        """It begins with its first cut. `new_map` makes an empty map."""
        self._new_map = new_map
        self.cuts = [_known(cut)]
        self._begin(None, ())

    def _begin(self, live: ChangeMap | None, why: tuple[str, ...]) -> None:
        """Without a map: it is made when something changes, not in the step of a cut."""
        self._live, self._noted, self.why = live, list[int](), why

    @property
    def live(self) -> ChangeMap:
        """What changed since the newest cut."""
        if self._live is None:
            self._live = self._new_map()
        if self._noted:
            self._live.set_grains(self._noted)
            self._noted.clear()
        return self._live

    def note(self, changes: Iterable[Change]) -> None:
        """These changed. On the path of every write of a volume that has been cut."""
        live = self._live or self.live
        noted, shift = self._noted, live.shift
        for change in changes:
            offset = change.offset
            grain = offset >> shift
            if (offset + change.length - 1) >> shift == grain:
                noted.append(grain)
            else:
                live.set(offset, change.length)
        if len(noted) >= NOTED_MAX:
            live.set_grains(noted)
            noted.clear()

    def cut(self, cut: Cut, kept: int) -> None:
        """Freeze the live map at a cut, and go on with an empty one; `kept` cuts are remembered."""
        self.cuts.append(_known(cut)._replace(changed=self.live, why=self.why))
        self._begin(None, ())
        self.keep(kept)

    def cut_earlier(self, cut: Cut, kept: int) -> None:
        """The same at a cut that lies somewhere in the live map's interval: what it has counts on
        both sides of the cut.
        """
        live, why = self.live.copy(), self.why
        self.cut(cut, kept)
        self._begin(live, why)

    def keep(self, kept: int) -> None:
        """Forget all cuts but the latest `kept`, at least one."""
        del self.cuts[:-kept]
        self.cuts[0] = self.cuts[0]._replace(file="", changed=None, why=())

    def widen(self, ranges: Iterable[tuple[int, int]], why: str) -> None:
        """These ranges (offset, length) may have changed without a record."""
        for offset, length in ranges:
            self.live.set(offset, length)
            self._because(why)

    def merge(self, changed: ChangeMap, why: str) -> None:
        """The same, of a map."""
        if changed.any():
            self.live.merge(changed)
            self._because(why)

    def widen_all(self, why: str) -> None:
        """Nobody knows what changed since the newest cut."""
        self.live.set_all()
        self._because(why)

    def went_back(self, cut: Cut | None, usable: bool) -> None:
        """The volume holds again what it held at `cut`: a swap gave up what came later. The live
        map has all of that if no remembered cut lies in between.
        """
        if cut is None or not usable or cut.sequence < self.cuts[-1].sequence:
            self.widen_all(GIVEN_UP)
        self._because(GIVEN_UP)

    def grew(self, new_map: Callable[[], ChangeMap], before: int) -> None:
        """The volume had `before` bytes; `new_map` makes maps of its size now. Who has a copy of an
        older cut may not know that zeroes follow there.
        """
        live, self._new_map = new_map(), new_map
        live.merge(self.live)
        self._live = live
        self.widen([(before, live.size_bytes - before)], GREW)

    def _because(self, why: str) -> None:
        if why not in self.why:
            self.why = (*self.why, why)

    def stored(self, files: Mapping[str, str]) -> None:
        """These maps are in files now, by the id of the cut that they end at."""
        for place, known in enumerate(self.cuts):
            if known.changed is not None and known.id in files:
                self.cuts[place] = known._replace(file=files[known.id], changed=None)

    def find(self, point: str, is_good: Callable[[KnownCut], bool]) -> KnownCut | None:
        """The cut of that id, or the newest good one of that tag; `latest` is the newest good one
        of all.
        """
        for known in self.cuts:
            if known.id == point:
                return known
        found = self.tagged(point, is_good)
        if not found and point == LATEST:
            found = list(filter(is_good, self.cuts))
        return found[-1] if found else None

    def tagged(self, tag: str, is_good: Callable[[KnownCut], bool]) -> list[KnownCut]:
        """The good ones with a tag, oldest first."""
        return [known for known in self.cuts if tag and known.tag == tag and is_good(known)]

    def before(self, cut: str) -> dict[str, str]:
        """What the cuts before that one are called by, the newest first, and the id of each: its
        id, and its tag if no other cut that is remembered has it. Nothing if it is not remembered.
        """
        ids = [known.id for known in self.cuts]
        if cut not in ids:
            return {}
        tags = Counter(known.tag for known in self.cuts)
        found: dict[str, str] = {}
        for known in reversed(self.cuts[: ids.index(cut)]):
            found[known.id] = known.id
            if known.tag and tags[known.tag] == 1 and known.tag not in ids:
                found[known.tag] = known.id
        return found

    def between(self, since: KnownCut, until: KnownCut | None) -> list[KnownCut]:
        """The cuts at which the intervals from `since` to `until` end; the last one, if `until` is
        None, is that of the live map and not among them.
        """
        last = self.cuts[-1].sequence if until is None else until.sequence
        return [known for known in self.cuts if since.sequence < known.sequence <= last]

    def take(self) -> Taken:
        """For a checkpoint, at rest."""
        return Taken(tuple(self.cuts), self.live.copy(), self.why)

    @classmethod
    def restore(cls, taken: Taken) -> ChangeHistory:
        """The reverse."""
        history = cls.__new__(cls)
        history.cuts, history._new_map = list(taken.cuts), taken.live.emptied
        history._begin(taken.live, taken.why)
        return history


class CutVolume(Protocol):
    """What is needed of a `PairRecord`, for the ledger."""

    history: ChangeHistory | None
    changed: ChangeMap | None
    size: int
    state: str
    regions: DirtyRegions

    def new_map(self) -> ChangeMap: ...


def freeze(pairs: Iterable[CutVolume], cut: Cut, kept: int) -> None:
    """Pairs are cut: the history of each goes on there, or begins."""
    for pair in pairs:
        if pair.history is not None:
            pair.history.cut(cut, kept)
        elif kept:
            pair.history = ChangeHistory(cut, pair.new_map)


def freeze_earlier(pairs: Iterable[CutVolume], cut: Cut, kept: int) -> None:
    """Pairs that were at a cut go on to this one, which has passed. What was noted since the older
    one is more than what changed since.
    """
    for pair in pairs:
        if pair.history is not None:
            pair.history.cut_earlier(cut, kept)
        elif kept:
            pair.history = ChangeHistory(cut, pair.new_map)
            if pair.changed is not None:
                pair.history.live.merge(pair.changed)


def keep(pairs: Iterable[CutVolume], kept: int) -> None:
    """So many cuts of each volume from now on. With 0 what was known is forgotten."""
    for pair in pairs:
        if not kept:
            pair.history = None
        elif pair.history is not None:
            pair.history.keep(kept)


def widen(pairs: Iterable[CutVolume]) -> None:
    """After an unclean stop a primary may hold changes whose records were lost: in its open
    regions, or, without a secondary, anywhere, because then the journal does not know them.
    """
    for pair in pairs:
        if pair.history is not None and pair.state == SIMPLEX:
            pair.history.widen_all(UNCLEAN)
        elif pair.history is not None:
            pair.history.widen(pair.regions.ranges(pair.size), UNCLEAN)


def _known(cut: Cut) -> KnownCut:
    return KnownCut(cut.id, cut.tag, cut.sequence, cut.time_us)


# A checkpoint has the histories of a thousand volumes, of which most have the same cuts: each cut
# is written once, and volumes name it by its place.


def pack_all(histories: Mapping[int, Taken]) -> Json:
    """Histories by volume, as JSON; maps that are in no file are left out: if they are lost with
    the memory, their intervals count as everything.
    """
    places: dict[tuple[str, str, int, int, str], int] = {}
    volumes: Json = {}
    for number, taken in histories.items():
        own = [places.setdefault(known[:5], len(places)) for known in taken.cuts]
        why = {str(at): list(known.why) for at, known in enumerate(taken.cuts) if known.why}
        volumes[str(number)] = {
            "cuts": own,
            "live": pack_map(taken.live),
            **({"why": why} if why else {}),
            **({"live_why": list(taken.why)} if taken.why else {}),
        }
    return {"cuts": [list(known) for known in places], "volumes": volumes}


def unpack_all(saved: Json) -> dict[int, ChangeHistory]:
    """What `pack_all` made. Raises KeyError, ValueError or TypeError for anything else."""
    cuts = [KnownCut(*packed) for packed in saved["cuts"]]
    found: dict[int, ChangeHistory] = {}
    for number, own in saved["volumes"].items():
        why = own.get("why", {})
        known = [
            cuts[place]._replace(why=tuple(why.get(str(at), ())))
            for at, place in enumerate(own["cuts"])
        ]
        taken = Taken(tuple(known), unpack_map(own["live"]), tuple(own.get("live_why", ())))
        found[int(number)] = ChangeHistory.restore(taken)
    return found
