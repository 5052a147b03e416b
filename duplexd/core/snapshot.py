"""What a checkpoint stores of a ledger, and in which form.

With a checkpoint the journal need not be read from its beginning. It is taken between two batches,
so that step must be cheap: `take` only copies what may change, change maps included; `pack`, which
compresses the maps, runs in a worker thread. The field names are those of the file. They must not
change: checkpoints of every earlier version have to be readable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import change_history, leg_differences, scrub_state
from duplexd.core.cut import Cut
from duplexd.core.cut_states import CONSISTENT
from duplexd.core.drill_record import Drill
from duplexd.core.horizon import Horizon
from duplexd.core.image_record import unpack_image
from duplexd.core.mark_book import MarkBook
from duplexd.core.marker_fields import pack_map, unpack_map
from duplexd.core.older_state import OlderState
from duplexd.core.pair import ONLY_THE_MAP, PairRecord
from duplexd.core.pair_states import BY_COMMAND
from duplexd.core.rollback_state import Rollback
from duplexd.errors import DamageError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from duplexd.core.change_history import ChangeHistory
    from duplexd.json_object import Json
    from duplexd.limits import EngineLimits


class Unpacked(NamedTuple):
    """What a checkpoint has of a ledger."""

    boot: str
    closed: bool
    starts: int
    ahead: OlderState
    scrub_us: int
    cuts: dict[str, Cut]
    pairs: dict[int, PairRecord]
    changes: dict[int, ChangeHistory]
    marks: MarkBook


def take_all(
    pairs: Iterable[PairRecord],
    tail: int,
    mirrored: Mapping[int, bool],
    behind: Mapping[int, int],
    halfway: Container[int],
) -> list[Json]:
    """All pairs as they are at number `tail`; see `Ledger.snapshot`."""
    return [
        take(
            pair,
            tail if mirrored.get(pair.id) else pair.applied,
            behind.get(pair.id, tail),
            pair.id in halfway,
        )
        for pair in pairs
    ]


def take(pair: PairRecord, applied: int, primary_at: int, halfway: bool = False) -> Json:
    """A pair as it is now, its secondary at number `applied`, its primary at `primary_at`. Of one
    that is `halfway`, the journal does not keep what it lacks once it is full.
    """
    return {
        "id": pair.id,
        "name": pair.name,
        "size": pair.size,
        "removed": pair.removed,
        "state": pair.state,
        "reason": pair.reason,
        "usable": pair.usable,
        "applied": applied,
        "primary_at": primary_at,
        "swapped": pair.swapped,
        "tracked": pair.tracked_bytes,
        "staging": pair.staging,
        "staged": pair.staged,
        "regions": sorted(pair.regions.touched),
        "changed": None if pair.changed is None else pair.changed.copy(),
        "cut": None if pair.cut is None else pair.cut.pack(),
        "images": (pair.primary_image, pair.secondary_image),
        **({"secondary": pair.secondary_path} if pair.secondary_path else {}),
        **({"halfway": True} if halfway else {}),
        **({"rebuildable": True} if pair.rebuildable else {}),
        **({"adopted": True} if pair.adopted else {}),
        **({"horizon": list(pair.horizon)} if pair.horizon is not None else {}),
        **({"failed": pair.failed_us} if pair.failed_us else {}),
        **({"suspended": pair.suspended_us} if pair.suspended_us else {}),
        **({"unrecorded": pair.unrecorded} if _lacks_records(pair) else {}),
        **({"readers": dict(pair.readers)} if pair.readers else {}),
        **({"rollback": list(pair.rollback)} if pair.rollback is not None else {}),
        **({"grown": [list(grown) for grown in pair.grown]} if pair.grown else {}),
        **({"growing": pair.growing} if pair.growing else {}),
        **({"lineage": pair.lineage} if pair.lineage else {}),
        **({"differs": pair.differs.pack()} if pair.differs is not None else {}),
        **({"scrub": scrub} if (scrub := pair.scrub.pack()) else {}),
        **({"drill": list(pair.drill)} if pair.drill is not None else {}),
        **_cuts_of(pair),
    }


def _lacks_records(pair: PairRecord) -> bool:
    """Or may be thought to, as it does not replay the journal: `unrecorded` is 0 then."""
    return pair.unrecorded > 0 or pair.adopted or pair.tracked_bytes >= ONLY_THE_MAP


def _cuts_of(pair: PairRecord) -> Json:
    """The latest cut by its id, because its verdict may change; and by its time, for when the cut
    itself is forgotten. Left out of a pair that is at its only one, or had none.
    """
    last, good_us = pair.last_cut, pair.good_cut_us
    if not good_us and (last is None or last is pair.cut):
        return {}
    if last is None:
        return {"cuts": [good_us, "", 0]}
    return {"cuts": [good_us, last.id, last.time_us if last.verdict == CONSISTENT else 0]}


def forget_good(pairs: Iterable[PairRecord], cut: Cut) -> None:
    """A canary found this cut broken, after later ones were made."""
    for pair in pairs:
        if pair.good_cut_us == cut.time_us:
            pair.good_cut_us = 0


def _restore_cuts(pair: PairRecord, saved: Json, known: Mapping[str, Cut]) -> None:
    if "cuts" not in saved:
        pair.last_cut = pair.cut if pair.reason == BY_COMMAND else None
        return
    pair.good_cut_us, last, last_us = saved["cuts"]
    pair.last_cut = known.get(last)
    if pair.last_cut is None:
        pair.good_cut_us = max(pair.good_cut_us, last_us)


def pack(taken: Json) -> Json:
    """What `take` gave, as JSON."""
    changed, images = taken["changed"], taken["images"]
    packed = {**taken, "changed": None if changed is None else pack_map(changed)}
    del packed["images"]
    if any(images):
        packed["images"] = [image and image.pack() for image in images]
    return packed


def unpack(saved: Json, sequence: int, limits: EngineLimits) -> PairRecord:
    """The pair that `pack` wrote in a checkpoint at number `sequence`, but for its cut, which pairs
    share.

    Raises KeyError, ValueError or TypeError for anything else.
    """
    pair = PairRecord(saved["id"], saved["name"], saved["size"], limits)
    pair.removed, pair.state, pair.reason = saved["removed"], saved["state"], saved["reason"]
    pair.usable = saved["usable"]
    pair.applied = pair.secondary_at = saved["applied"]
    pair.primary_at = saved.get("primary_at", sequence)  # not written before version 3, as below
    pair.swapped = saved.get("swapped", False)
    pair.tracked_bytes = saved["tracked"]
    pair.staging, pair.staged = saved["staging"], saved["staged"]
    pair.regions.open = set(saved["regions"])
    pair.secondary_path = saved.get("secondary", "")  # left out where it is not known
    pair.rebuildable = saved.get("rebuildable", False)  # left out where it is not, as the next
    pair.adopted = saved.get("adopted", False)
    # older versions did not write since when: nothing is certain then but where the secondary is
    pair.unrecorded = saved.get("unrecorded", 1 if _lacks_records(pair) else 0)
    pair.horizon = Horizon(*saved["horizon"]) if "horizon" in saved else None
    pair.failed_us = saved.get("failed", 0)
    pair.readers = {str(name): int(us) for name, us in saved.get("readers", {}).items()}
    pair.rollback = Rollback(*saved["rollback"]) if "rollback" in saved else None
    pair.grown = tuple((int(at), int(before)) for at, before in saved.get("grown", ()))
    pair.growing = saved.get("growing", 0)
    pair.lineage = saved.get("lineage", 0)
    pair.differs = leg_differences.unpack(saved["differs"]) if "differs" in saved else None
    pair.scrub = scrub_state.unpack(saved.get("scrub", ()))
    pair.drill = Drill(*saved["drill"]) if "drill" in saved else None
    # left out where nothing is known of them
    pair.primary_image, pair.secondary_image = map(unpack_image, saved.get("images", (None, None)))
    if saved["changed"] is not None:
        pair.changed = pair.merged(unpack_map(saved["changed"]))
    return pair


def unpack_all(saved: Json, limits: EngineLimits) -> Unpacked:
    """What was taken of a ledger, and packed. Raises DamageError."""
    try:
        return _unpack_all(saved, limits)
    except (LookupError, ValueError, TypeError) as error:
        raise DamageError(
            f"the checkpoint is not readable ({error!r}); restore the state directory from a copy"
        ) from error


def _unpack_all(saved: Json, limits: EngineLimits) -> Unpacked:
    # `starts` and `cuts` were not written before there were groups, `ahead` since later.
    cuts = {cut.id: cut for cut in (Cut(*packed) for packed in saved.get("cuts", ()))}
    shared, pairs = dict(cuts), dict[int, PairRecord]()
    for packed in saved["pairs"]:
        pair = unpack(packed, saved.get("sequence", 0), limits)
        if packed["cut"] is not None:
            cut = Cut(*packed["cut"])
            pair.cut = shared.setdefault(cut.id, cut)  # pairs of one cut share it
            pair.suspended_us = packed.get("suspended", cut.time_us)  # not written before version 3
        _restore_cuts(pair, packed, shared)
        pairs[pair.id] = pair
    starts, ahead = saved.get("starts", 0), OlderState(*map(int, saved.get("ahead", ())))
    # left out where no volume has been cut, and not written by older versions
    changes = change_history.unpack_all(saved["changes"]) if "changes" in saved else {}
    scrub, marks = saved.get("scrub", 0), MarkBook()
    marks.restore(saved.get("marks", {}))
    return Unpacked(
        saved["boot"], saved["closed"], starts, ahead, scrub, cuts, pairs, changes, marks
    )
