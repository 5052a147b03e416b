"""Ledgers to fold markers into, and what is known of their pairs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from duplexd.core.change_map import ChangeMap
from duplexd.core.ledger import Ledger, Place
from duplexd.core.marker_fields import pack_map
from duplexd.core.markers import NewVolume
from duplexd.core.pair import Pair, PairRecord
from duplexd.limits import EngineLimits
from tests.support.memory_leg import MemoryLeg

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duplexd.core.markers import Marker
    from duplexd.json_object import Json

SIZE = 1 << 20
GRAIN = 64 << 10
LIMITS = EngineLimits(change_grain_bytes_min=GRAIN)


def empty_map(size: int = SIZE) -> ChangeMap:
    return ChangeMap(size, GRAIN, LIMITS.change_grains_max)


def changed(*grains: int) -> ChangeMap:
    found = empty_map()
    for grain in grains:
        found.set(grain * GRAIN, GRAIN)
    return found


def packed(*grains: int) -> str:
    return pack_map(changed(*grains))


def grains(changed: ChangeMap | None) -> list[int] | None:
    """The grains of a map; None if there is no map."""
    if changed is None:
        return None
    return [grain for grain in range(SIZE // GRAIN) if changed.overlaps(grain * GRAIN, GRAIN)]


def served(record: PairRecord, mode: str = "sync", secondary: bool = True) -> Pair:
    """A pair with images in memory."""
    return Pair(record, MemoryLeg(SIZE), MemoryLeg(SIZE) if secondary else None, mode)


def known(pair: PairRecord) -> Json:
    """All that the journal recorded of a pair, except its regions and where its secondary is."""
    cut = pair.cut
    return {
        "id": pair.id,
        "name": pair.name,
        "size": pair.size,
        "removed": pair.removed,
        "state": pair.state,
        "reason": pair.reason,
        "usable": pair.usable,
        "applied": pair.applied,
        "tracked_bytes": pair.tracked_bytes,
        "staging": pair.staging,
        "staged": pair.staged,
        "changed": grains(pair.changed),
        "cut": None if cut is None else (cut.id, cut.sequence, cut.time_us, cut.tag, cut.verdict),
        **({} if pair.differs is None else {"differs": pair.differs.pack()}),
    }


def everything(ledger: Ledger) -> Json:
    return {
        "boot": ledger.boot,
        "closed": ledger.closed,
        "starts": ledger.starts,
        "ahead": ledger.ahead,
        "cuts": [cut.pack() for cut in ledger.cuts.values()],
        "pairs": [known(pair) for pair in ledger.pairs.values()],
    }


def packed_snapshot(ledger: Ledger, tail: int, mirrored: Mapping[int, bool] | None = None) -> Json:
    """A checkpoint, as it is read from its file."""
    taken = {"sequence": tail, **ledger.snapshot(tail, mirrored or {})}
    saved: Json = json.loads(json.dumps(ledger.pack_snapshot(taken)))
    return saved


def restored(saved: Json) -> Ledger:
    ledger = Ledger(LIMITS)
    ledger.restore(saved)
    return ledger


def through_a_checkpoint(ledger: Ledger, tail: int) -> Ledger:
    """What a restart makes of a checkpoint taken now."""
    return restored(packed_snapshot(ledger, tail))


def fold(ledger: Ledger, sequence: int, marker: Marker) -> None:
    """Fold a marker as a restart does, which reads it from JSON: keys of objects are text there."""
    fields = json.loads(json.dumps(marker.pack()))
    ledger.unpack_and_apply(Place(sequence, sequence * 1000), fields)


class Story:
    """A ledger with some volumes, and the number of its last marker."""

    def __init__(self, *names: str, limits: EngineLimits = LIMITS) -> None:
        self.ledger = Ledger(limits)
        self.sequence = 0
        for number, name in enumerate(names or ("data",), 1):
            self.mark(NewVolume(number, name, SIZE))

    def mark(self, marker: Marker) -> int:
        """Fold the next marker; its number."""
        self.sequence += 1
        fold(self.ledger, self.sequence, marker)
        return self.sequence

    def pair(self, number: int = 1) -> PairRecord:
        return self.ledger.pairs[number]
