"""Any story that markers tell: a checkpoint in the middle of it, and what comes after, says the same as the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from duplexd.backend import WRITE
from duplexd.core import pair_states as state
from duplexd.core.ledger import UNCOMMITTED, Ledger
from tests.unit.core.ledgers import GRAIN, SIZE, everything, packed, packed_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.pair import Pair

PAIRS = 3
grain_lists = st.lists(st.integers(0, SIZE // GRAIN - 1), max_size=3)
steps = st.tuples(st.integers(0, 1 << 16), st.integers(0, 7), grain_lists)


def candidates(
    ledger: Ledger, at: int, grains: list[int]
) -> list[tuple[str, Callable[[Pair], bool], Callable[[list[Pair]], dict[str, Any]]]]:
    """Markers that a controller may write now: name, which pairs it may be about, and its fields."""

    def ids(pairs: list[Pair]) -> dict[str, Any]:
        return {"volumes": [pair.id for pair in pairs]}

    def maps(pairs: list[Pair]) -> dict[str, Any]:
        return {"volumes": {str(pair.id): packed(*grains) for pair in pairs}}

    def can(event: str) -> Callable[[Pair], bool]:
        return lambda pair: state.after(pair.state, event) is not None

    def fail(pairs: list[Pair]) -> dict[str, Any]:
        missed = {str(pair.id): packed(*grains) for pair in pairs} if grains else {}
        return {
            **ids(pairs),
            "id": f"f{at}",
            "at": at - 1,
            "failed": [pairs[0].id],
            "unusable": [pairs[-1].id][: len(grains) % 2],
            "error": "",
            "missed": missed,
        }

    cuts = [pair.cut.id for pair in ledger.pairs.values() if pair.cut is not None]
    return [
        ("open", lambda _pair: True, lambda _pairs: {"boot": f"boot-{at}", "version": 1}),
        ("close", lambda _pair: True, lambda _pairs: {}),
        ("attach", can(state.ATTACH), ids),
        ("copy", can(state.COPY), lambda pairs: {**maps(pairs), "reason": state.POWER_CUT}),
        ("copied", lambda pair: pair.state == state.PENDING, lambda pairs: {"id": pairs[0].id, "runs": [[grain * GRAIN, GRAIN] for grain in grains]}),
        ("cut", can(state.SUSPEND), lambda pairs: {**ids(pairs), "id": f"c{at}", "tag": "t"}),
        ("fail", can(state.FAIL), fail),
        ("void", lambda pair: pair.cut is not None, lambda _pairs: {"cut": cuts[at % len(cuts)]}),
        ("resync", can(state.RESYNC), lambda pairs: {**ids(pairs), "job": f"j{at}", "how": "map" if len(grains) % 2 else "journal"}),
        ("abandon", lambda pair: pair.staging == UNCOMMITTED, lambda pairs: {**ids(pairs), "job": ""}),
        ("commit", lambda pair: pair.staging == UNCOMMITTED, lambda pairs: {**ids(pairs), "job": f"j{at}", "at": at - 1, "count": at}),
        ("settled", lambda pair: pair.staging not in {"", UNCOMMITTED}, lambda pairs: {**ids(pairs), "job": ""}),
        ("equal", can(state.EQUAL), ids),
        ("missed", lambda pair: pair.state == state.SUSPENDED, maps),
        ("regions", lambda pair: pair.state != state.SIMPLEX, lambda pairs: {"volumes": {str(pair.id): grains for pair in pairs}}),
        ("detach", can(state.DETACH), ids),
        ("remove", lambda pair: not pair.removed, lambda pairs: {"id": pairs[0].id}),
    ]  # fmt: skip


def tell(plan: list[tuple[int, int, list[int]]]) -> tuple[Ledger, list[Callable[[Ledger], None]]]:
    """Fold a story; each of its steps again as something to do to a ledger."""
    ledger, done = Ledger(), list[Any]()

    def do(step: Callable[[Ledger], None]) -> None:
        step(ledger)
        done.append(step)

    def marker(sequence: int, **fields: Any) -> Callable[[Ledger], None]:
        return lambda target: target.apply(sequence, sequence * 1000, fields)

    for number in range(1, PAIRS + 1):
        do(marker(number, m="volume", id=number, name=f"v{number}", size=SIZE))
    for sequence, (choice, members, grains) in enumerate(plan, PAIRS + 1):
        chosen = [pair for pair in ledger.pairs.values() if members & (1 << (pair.id - 1))]
        possible = [
            (name, pairs, fields)
            for name, may, fields in candidates(ledger, sequence, grains)
            if (pairs := [p for p in chosen if may(p)])
        ]
        if possible and choice % 4:
            name, pairs, fields = possible[choice % len(possible)]
            do(marker(sequence, m=name, **fields(pairs)))
        for pair in chosen:
            if not choice % 4 and pair.tracks and grains:
                do(
                    lambda target, number=pair.id, grain=grains[0]: target.track(
                        target.pairs[number], WRITE, grain * GRAIN, 512
                    )
                )  # type: ignore[misc]
    return ledger, done


@given(plan=st.lists(steps, max_size=25), place=st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_a_checkpoint_anywhere_changes_nothing(
    plan: list[tuple[int, int, list[int]]], place: float
) -> None:
    whole, done = tell(plan)
    middle = round(place * len(done))
    before = Ledger()
    for step in done[:middle]:
        step(before)
    after = Ledger()
    after.restore(packed_snapshot(before, middle))
    for step in done[middle:]:
        step(after)
    assert everything(after) == everything(whole)
    for number, pair in after.pairs.items():
        assert pair.regions <= whole.pairs[number].regions, (
            "a checkpoint closes regions, it opens none"
        )


@given(plan=st.lists(steps, max_size=40))
@settings(max_examples=200, deadline=None)
def test_what_holds_of_every_pair_at_every_step(plan: list[tuple[int, int, list[int]]]) -> None:
    _, done = tell(plan)
    ledger = Ledger()
    for step in done:
        step(ledger)
        for pair in ledger.pairs.values():
            assert pair.state in state.STATES
            assert pair.state != state.SIMPLEX or not pair.usable
            assert pair.state != state.DUPLEX or (
                pair.usable and pair.changed is None and pair.cut is None
            )
            assert pair.state != state.SUSPENDED or pair.cut is not None
            assert pair.staging == "" or pair.state == state.PENDING
