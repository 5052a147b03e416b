"""What the journal's markers say about pairs, folded into their states.

The same code runs when a marker is written and when it is read again after a restart, so the two can't differ. Markers are JSON objects; `m` names them:

    m         fields                                   what it says
    open      boot, version                            a daemon started, on this boot of the machine
    close                                              it stopped in order: everything before is on both legs
    volume    id, name, size                           a new volume, SIMPLEX
    remove    id                                       taken out of the configuration
    attach    volumes                                  both images are new: DUPLEX
    copy      volumes {id: map}, reason                what may differ is to be copied; unusable until then
    copied    id, runs                                 these bytes were copied, durably
    cut       id, tag, volumes, group, members         SUSPENDED at this record; with `members`, the controllers that must all be ready
    stood     cut                                      the secondaries stand there durably: of a cut of this controller alone
    ready     cut                                      it was opened in order, and the secondaries stand there durably
    agreed    cut                                      every member is ready: it is consistent
    fail      id, at, volumes, unusable, failed, error, missed {id: map}    SUSPENDED at record `at`, earlier than this one
    void      cut                                      the cut is not consistent, or is not to be made
    grade     cut, consistent, records, detail         what a canary found on the secondaries
    resync    job, how, volumes                        a resync began
    abandon   job, volumes, reasons {id: reason}       it ended without touching the secondaries: they stand as before
    commit    job, at, count, volumes                  the staging log, of `count` records, holds all up to record `at`
    settled   job, volumes                             it is applied, durably
    equal     volumes                                  DUPLEX
    missed    volumes {id: map}                        these may have changed, unseen
    regions   volumes {id: [number]}                   these may differ after a power cut
    detach    volumes                                  the secondary was taken out of the configuration: SIMPLEX
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

from duplexd.core import state, votes
from duplexd.core.change_map import ChangeMap
from duplexd.core.pair import Cut, Pair
from duplexd.errors import DamageError, WrongStateError
from duplexd.limits import CUTS_KEPT_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CONSISTENT, VOID = votes.CONSISTENT, votes.VOID
UNCOMMITTED = "uncommitted"  # `Pair.staging` of a resync by map before its commit
WRITE = 1
ONLY_THE_MAP = 1 << 60  # in `Pair.tracked_bytes`: more than any map could stand for

# Markers that move pairs, and how
_EVENTS = {
    "attach": state.ATTACH, "copy": state.COPY, "cut": state.SUSPEND, "fail": state.FAIL, "resync": state.RESYNC, "abandon": state.ABANDON,
    "equal": state.EQUAL, "detach": state.DETACH,
}  # fmt: skip


def pack_map(changed: ChangeMap) -> str:
    """A change map as text."""
    return b64encode(changed.to_bytes()).decode()


def unpack_map(text: str, pair: Pair) -> ChangeMap:
    """A change map of that pair, from text."""
    changed = ChangeMap(pair.size)
    changed.merge(ChangeMap.from_bytes(b64decode(text)))
    return changed


class Ledger:
    """All pairs, by number, and what is known of the controller's past."""

    def __init__(self) -> None:
        self.pairs: dict[int, Pair] = {}
        self.boot = ""
        self.closed = False
        self.starts = 0
        self.cuts: dict[
            str, Cut
        ] = {}  # the latest, oldest first; those that secondaries stand at, and many more
        self._fold: dict[str, Callable[[int, int, dict[str, Any]], None]] = {
            "open": self._open, "close": self._close, "volume": self._volume, "remove": self._remove, "attach": self._attach,
            "copy": self._copy, "copied": self._copied, "cut": self._cut, "fail": self._fail, "void": self._vote, "resync": self._resync,
            "abandon": self._abandon, "commit": self._commit, "settled": self._settled, "equal": self._equal, "missed": self._missed,
            "regions": self._regions, "detach": self._detach, "stood": self._stood, "ready": self._vote, "agreed": self._vote, "grade": self._grade,
        }  # fmt: skip

    def next_id(self) -> int:
        """A number no volume ever had."""
        return max(self.pairs, default=0) + 1

    def apply(self, sequence: int, time_us: int, marker: dict[str, Any]) -> None:
        """Fold marker number `sequence`. Raises DamageError for one that does not fit the states, which no writer writes."""
        try:
            self._fold[marker["m"]](sequence, time_us, marker)
        except (KeyError, ValueError, TypeError) as error:
            raise DamageError(
                f"journal record {sequence}: the marker {marker!r} makes no sense here ({error!r})"
            ) from error

    def check(self, marker: dict[str, Any]) -> None:
        """Before a marker is written: raises WrongStateError if it does not fit the states. What is in the journal stays there."""
        event = _EVENTS.get(marker["m"])
        if event is None:
            return
        for pair in self._of(marker["volumes"]):
            if state.after(pair.state, event) is None:
                raise WrongStateError(f"{pair.name} is {pair.state}: {event} is not possible")

    def track(self, pair: Pair, kind: int, offset: int, length: int) -> None:
        """Note a change that the secondary does not get."""
        if pair.changed is None:
            pair.changed = ChangeMap(pair.size)
        pair.changed.set(offset, length)
        if kind == WRITE:
            pair.tracked_bytes += length

    def _of(self, numbers: Iterable[int | str]) -> list[Pair]:
        return [self.pairs[int(number)] for number in numbers]

    def _move(self, pair: Pair, event: str, reason: str) -> None:
        after = state.after(pair.state, event)
        if after is None:
            raise ValueError(f"{event} of {pair.name}, which is {pair.state}")
        pair.state = after
        pair.reason = reason
        pair.refresh()

    def _open(self, _sequence: int, _time_us: int, marker: dict[str, Any]) -> None:
        self.boot = str(marker["boot"])
        self.closed = False
        self.starts += 1

    def _close(self, _sequence: int, _time_us: int, _marker: dict[str, Any]) -> None:
        self.closed = True

    def _volume(self, _sequence: int, _time_us: int, marker: dict[str, Any]) -> None:
        self.pairs[marker["id"]] = Pair(marker["id"], marker["name"], marker["size"])

    def _remove(self, _sequence: int, _time_us: int, marker: dict[str, Any]) -> None:
        self.pairs[marker["id"]].removed = True

    def _attach(self, sequence: int, _time_us: int, marker: dict[str, Any]) -> None:
        for pair in self._of(marker["volumes"]):
            self._move(pair, state.ATTACH, "")
            pair.usable, pair.applied = True, sequence

    def _copy(self, sequence: int, _time_us: int, marker: dict[str, Any]) -> None:
        for number, text in marker["volumes"].items():
            pair = self.pairs[int(number)]
            self._move(pair, state.COPY, marker["reason"])
            pair.usable, pair.applied, pair.cut, pair.staging = False, sequence, None, ""
            pair.changed = unpack_map(text, pair)
            pair.tracked_bytes = 0

    def _copied(self, _sequence: int, _time_us: int, marker: dict[str, Any]) -> None:
        changed = self.pairs[marker["id"]].changed
        if changed is not None:
            for offset, length in marker["runs"]:
                changed.clear(offset, length)

    def _cut(self, sequence: int, time_us: int, marker: dict[str, Any]) -> None:
        members = marker.get("members", ())
        cut = Cut(
            marker["id"], sequence, time_us, marker["tag"], votes.CUT if members else CONSISTENT, marker.get("group", ""), members
        )  # fmt: skip
        for pair in self._of(marker["volumes"]):
            self._move(pair, state.SUSPEND, state.BY_COMMAND)
            pair.cut, pair.changed, pair.tracked_bytes = cut, None, 0
        self._remember(cut)

    def cut(self, cut_id: str) -> Cut | None:
        """The cut of that id, if it is remembered or a secondary stands at it."""
        known = self.cuts.get(cut_id)
        if known is None:
            known = next(
                (
                    pair.cut
                    for pair in self.pairs.values()
                    if pair.cut is not None and pair.cut.id == cut_id
                ),
                None,
            )
        return known

    def state_of(self, cut_id: str) -> str:
        """What the journal says of a cut, see `core/votes.py`."""
        cut = self.cut(cut_id)
        return votes.NONE if cut is None else cut.state

    def _remember(self, cut: Cut) -> None:
        self.cuts[cut.id] = cut
        if len(self.cuts) > CUTS_KEPT_MAX:  # one that secondaries stand at is known by their pairs
            oldest = next(
                (
                    old.id
                    for old in self.cuts.values()
                    if old.verdict is not None and old is not cut
                ),
                next(iter(self.cuts)),
            )
            del self.cuts[oldest]

    def _vote(self, sequence: int, time_us: int, marker: dict[str, Any]) -> None:
        cut = self.cut(marker["cut"])
        if cut is None:  # one that is not to be made, or that was forgotten
            if marker["m"] == "void":
                self._remember(Cut(marker["cut"], sequence, time_us, "", VOID))
            return
        after = votes.after(cut.state, votes.MARKERS[marker["m"]])
        if after is None:
            raise ValueError(f"cut {cut.id} is {cut.state}")
        cut.state = after
        if after == votes.READY:
            self._arrived(cut)

    def _stood(self, _sequence: int, _time_us: int, marker: dict[str, Any]) -> None:
        cut = self.cut(marker["cut"])
        if cut is not None:
            self._arrived(cut)

    def _arrived(self, cut: Cut) -> None:
        """A restart has nothing to bring to the secondaries that stand there, and must not: somebody may be reading them."""
        for pair in self.pairs.values():
            if pair.cut is cut and pair.state == state.SUSPENDED and pair.usable:
                pair.applied = max(pair.applied, cut.sequence)

    def _grade(self, _sequence: int, _time_us: int, marker: dict[str, Any]) -> None:
        cut = self.cut(marker["cut"])
        if cut is not None:
            cut.grade = {key: marker[key] for key in ("consistent", "records", "detail")}

    def _fail(self, _sequence: int, time_us: int, marker: dict[str, Any]) -> None:
        verdict = VOID if marker["unusable"] else CONSISTENT
        cut = Cut(marker["id"], marker["at"], time_us, "", verdict)
        cut.why = marker.get("error", "")
        self._remember(cut)
        for pair in self._of(marker["volumes"]):
            if pair.cut is not None and pair.state == state.SUSPENDED:
                pair.cut.state, pair.cut.why = (
                    VOID,
                    cut.why,
                )  # a cut that lost a member stands for nothing
            self._move(
                pair, state.FAIL, state.BY_ERROR if pair.id in marker["failed"] else state.BY_GROUP
            )
            pair.cut, pair.applied = cut, min(pair.applied, cut.sequence)
            pair.usable = pair.usable and pair.id not in marker["unusable"]
            pair.staging = ""
            if str(pair.id) in marker["missed"]:
                missed = unpack_map(marker["missed"][str(pair.id)], pair)
                pair.tracked_bytes += missed.changed_bytes
                pair.changed = self._merged(pair, missed)

    def _resync(self, sequence: int, _time_us: int, marker: dict[str, Any]) -> None:
        for pair in self._of(marker["volumes"]):
            standing = pair.applied >= pair.limit(pair.applied)
            self._move(pair, state.RESYNC, state.RESYNCING)
            pair.staging, pair.staged = (UNCOMMITTED if marker["how"] == "map" else ""), 0
            if marker["how"] == "journal" and pair.changed is None and standing:
                pair.applied = sequence  # it stands at its cut, and nothing of it changed since

    def _abandon(self, _sequence: int, _time_us: int, marker: dict[str, Any]) -> None:
        for pair in self._of(marker["volumes"]):
            self._move(
                pair, state.ABANDON, marker.get("reasons", {}).get(str(pair.id), state.BY_COMMAND)
            )
            pair.staging = ""

    def _commit(self, _sequence: int, _time_us: int, marker: dict[str, Any]) -> None:
        for pair in self._of(marker["volumes"]):
            pair.staging, pair.staged, pair.applied = marker["job"], marker["count"], marker["at"]

    def _settled(self, _sequence: int, _time_us: int, marker: dict[str, Any]) -> None:
        for pair in self._of(marker["volumes"]):
            pair.staging = ""

    def _equal(self, _sequence: int, _time_us: int, marker: dict[str, Any]) -> None:
        for pair in self._of(marker["volumes"]):
            self._move(pair, state.EQUAL, "")
            pair.usable, pair.cut, pair.changed, pair.tracked_bytes, pair.staging = (
                True,
                None,
                None,
                0,
                "",
            )

    def _missed(self, _sequence: int, _time_us: int, marker: dict[str, Any]) -> None:
        for number, text in marker["volumes"].items():
            pair = self.pairs[int(number)]
            pair.changed = self._merged(pair, unpack_map(text, pair))
            pair.tracked_bytes += ONLY_THE_MAP  # the journal does not have these

    def _merged(self, pair: Pair, more: ChangeMap) -> ChangeMap:
        if pair.changed is not None:
            more.merge(pair.changed)
        return more

    def _regions(self, _sequence: int, _time_us: int, marker: dict[str, Any]) -> None:
        for number, regions in marker["volumes"].items():
            self.pairs[int(number)].regions.update(regions)

    def _detach(self, _sequence: int, _time_us: int, marker: dict[str, Any]) -> None:
        for pair in self._of(marker["volumes"]):
            self._move(pair, state.DETACH, "")
            pair.usable, pair.cut, pair.changed, pair.tracked_bytes, pair.staging = (
                False,
                None,
                None,
                0,
                "",
            )
            pair.secondary_path = ""
            pair.regions.clear()

    def snapshot(self, tail: int) -> dict[str, Any]:
        """All of it, for a checkpoint at number `tail`. `applied` is only true once the secondaries were synced."""
        return {
            "boot": self.boot, "closed": self.closed, "starts": self.starts, "cuts": [cut.pack() for cut in self.cuts.values()],
            "pairs": [self._pair_snapshot(pair, tail) for pair in self.pairs.values()],
        }  # fmt: skip

    def _pair_snapshot(self, pair: Pair, tail: int) -> dict[str, Any]:
        cut = pair.cut
        return {
            "id": pair.id, "name": pair.name, "size": pair.size, "removed": pair.removed, "state": pair.state, "reason": pair.reason,
            "usable": pair.usable, "applied": tail if pair.mirrors else pair.applied, "tracked": pair.tracked_bytes,
            "staging": pair.staging, "staged": pair.staged, "regions": sorted(pair.touched), "changed": None if pair.changed is None else pair.changed.copy(),
            "cut": None if cut is None else cut.pack(),
            **({"secondary": pair.secondary_path} if pair.secondary_path else {}),
        }  # fmt: skip

    @staticmethod
    def pack_snapshot(snapshot: dict[str, Any]) -> dict[str, Any]:
        """The snapshot with its maps as text: what takes time of it, for a worker to do."""
        pairs = [
            {**pair, "changed": None if pair["changed"] is None else pack_map(pair["changed"])}
            for pair in snapshot["pairs"]
        ]
        return {**snapshot, "pairs": pairs}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """The reverse of `pack_snapshot`. Raises DamageError."""
        try:
            self.boot, self.closed = snapshot["boot"], snapshot["closed"]
            self.starts = snapshot.get(
                "starts", 0
            )  # versions before groups of controllers left these two out
            cuts = {cut.id: cut for cut in (Cut(*saved) for saved in snapshot.get("cuts", ()))}
            self.cuts = dict(cuts)
            for saved in snapshot["pairs"]:
                pair = Pair(saved["id"], saved["name"], saved["size"])
                pair.removed, pair.state, pair.reason = (
                    saved["removed"],
                    saved["state"],
                    saved["reason"],
                )
                pair.usable, pair.applied, pair.tracked_bytes = (
                    saved["usable"],
                    saved["applied"],
                    saved["tracked"],
                )
                pair.staging, pair.staged, pair.regions = (
                    saved["staging"],
                    saved["staged"],
                    set(saved["regions"]),
                )
                pair.secondary_path = saved.get("secondary", "")  # left out where it is not known
                if saved["changed"] is not None:
                    pair.changed = unpack_map(saved["changed"], pair)
                if saved["cut"] is not None:
                    cut = Cut(*saved["cut"])
                    pair.cut = cuts.setdefault(cut.id, cut)
                self.pairs[pair.id] = pair
        except (KeyError, ValueError, TypeError) as error:
            raise DamageError(
                f"the checkpoint makes no sense ({error!r}); restore the state directory from a copy"
            ) from error
