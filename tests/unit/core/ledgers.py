"""Ledgers to fold markers into, and what is known of their pairs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from duplexd.core.change_map import ChangeMap
from duplexd.core.ledger import Ledger, pack_map

if TYPE_CHECKING:
    from duplexd.core.pair import Pair

SIZE = 1 << 20
GRAIN = ChangeMap(SIZE).grain_bytes


def changed(*grains: int) -> ChangeMap:
    found = ChangeMap(SIZE)
    for grain in grains:
        found.set(grain * GRAIN, GRAIN)
    return found


def packed(*grains: int) -> str:
    return pack_map(changed(*grains))


def grains(pair: Pair) -> list[int] | None:
    """The changed grains; None if there is no map."""
    if pair.changed is None:
        return None
    return [grain for grain in range(SIZE // GRAIN) if pair.changed.overlaps(grain * GRAIN, GRAIN)]


def known(pair: Pair) -> dict[str, Any]:
    """All that the journal knows of a pair, but the regions."""
    cut = pair.cut
    fields = (
        "id",
        "name",
        "size",
        "removed",
        "state",
        "reason",
        "usable",
        "applied",
        "tracked_bytes",
        "staging",
        "staged",
    )
    return {
        **{field: getattr(pair, field) for field in fields},
        "changed": grains(pair),
        "cut": None if cut is None else (cut.id, cut.sequence, cut.time_us, cut.tag, cut.verdict),
    }


def everything(ledger: Ledger) -> dict[str, Any]:
    return {
        "boot": ledger.boot,
        "closed": ledger.closed,
        "pairs": [known(pair) for pair in ledger.pairs.values()],
    }


def through_a_checkpoint(ledger: Ledger, tail: int) -> Ledger:
    """What a restart makes of a checkpoint taken now."""
    again = Ledger()
    again.restore(packed_snapshot(ledger, tail))
    return again


def packed_snapshot(ledger: Ledger, tail: int) -> dict[str, Any]:
    """As it is read from the file."""
    saved: dict[str, Any] = json.loads(json.dumps(ledger.pack_snapshot(ledger.snapshot(tail))))
    return saved


class Story:
    """A ledger, and the number of its last marker."""

    def __init__(self, *names: str) -> None:
        self.ledger = Ledger()
        self.sequence = 0
        for number, name in enumerate(names or ("data",), 1):
            self.tell("volume", id=number, name=name, size=SIZE)

    def tell(self, m: str, **fields: Any) -> int:
        self.sequence += 1
        marker = json.loads(json.dumps({"m": m, **fields}))  # as it is read again: keys are text
        self.ledger.apply(self.sequence, self.sequence * 1000, marker)
        return self.sequence

    def pair(self, number: int = 1) -> Pair:
        return self.ledger.pairs[number]
