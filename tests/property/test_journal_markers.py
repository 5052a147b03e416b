"""Any sequence of markers that a controller may write: a checkpoint in the middle of it, and what
comes after, gives the same as the whole; and every marker is packed and unpacked without loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from duplexd.backend import WRITE
from duplexd.core import markers, pair_states
from duplexd.core.invariants import broken
from duplexd.core.ledger import UNCOMMITTED, Ledger
from duplexd.core.pair_states import PENDING, SIMPLEX, SUSPENDED
from tests.unit.core.ledgers import (
    GRAIN,
    LIMITS,
    SIZE,
    changed,
    everything,
    fold,
    packed_snapshot,
    restored,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.core.change_map import ChangeMap
    from duplexd.core.markers import Marker
    from duplexd.core.pair import PairRecord

    Step = Callable[[Ledger], None]

PAIRS = 3
grain_lists = st.lists(st.integers(0, SIZE // GRAIN - 1), max_size=3)
plans = st.tuples(st.integers(0, 1 << 16), st.integers(0, 7), grain_lists)
Plan = list[tuple[int, int, list[int]]]


class Candidate(NamedTuple):
    """A marker that a controller may write now: about which pairs, and how it is made of them."""

    may: Callable[[PairRecord], bool]
    make: Callable[[list[int]], Marker]  # of the numbers of the pairs


def can(event: str) -> Callable[[PairRecord], bool]:
    return lambda pair: pair_states.after(pair.state, event) is not None


def can_be_cut(pair: PairRecord) -> bool:
    return can(pair_states.SUSPEND)(pair) and pair.differs is None


def is_any(_pair: PairRecord) -> bool:
    return True


def candidates(ledger: Ledger, at: int, grains: list[int]) -> list[Candidate]:
    """What may be written at number `at`. Its maps have these grains set."""
    odd = len(grains) % 2 == 1
    cuts = [pair.cut.id for pair in ledger.pairs.values() if pair.cut is not None]

    def maps(ids: list[int]) -> dict[int, ChangeMap]:
        return {number: changed(*grains) for number in ids}

    def fail(ids: list[int]) -> Marker:
        torn, missed = ids[-1:] if odd else [], maps(ids) if grains else {}
        return markers.Fail(f"f{at}", at - 1, ids, ids[:1], torn, "", missed)

    def uncommitted(pair: PairRecord) -> bool:
        return pair.staging == UNCOMMITTED

    runs = [(grain * GRAIN, GRAIN) for grain in grains]
    how = markers.MAP if odd else markers.JOURNAL
    return [
        Candidate(is_any, lambda _: markers.Open(f"boot-{at}")),
        Candidate(is_any, lambda _: markers.Close()),
        Candidate(can(pair_states.ATTACH), markers.Attach),
        Candidate(
            can(pair_states.COPY), lambda ids: markers.Copy(maps(ids), pair_states.UNCLEAN_STOP)
        ),
        Candidate(lambda pair: pair.state == PENDING, lambda ids: markers.Copied(ids[0], runs)),
        Candidate(can_be_cut, lambda ids: markers.MakeCut(f"c{at}", "t", ids)),
        Candidate(can(pair_states.FAIL), fail),
        Candidate(lambda pair: pair.cut is not None, lambda _: markers.Void(cuts[at % len(cuts)])),
        Candidate(lambda pair: pair.cut is not None, lambda _: markers.Stood(cuts[at % len(cuts)])),
        Candidate(
            lambda pair: pair.state == SUSPENDED and pair.usable,
            lambda ids: markers.Resync(f"j{at}", how, ids),
        ),
        Candidate(uncommitted, lambda ids: markers.Abandon("", ids, {})),
        Candidate(uncommitted, lambda ids: markers.Commit(f"j{at}", at - 1, at, ids)),
        Candidate(
            lambda pair: pair.staging not in {"", UNCOMMITTED},
            lambda ids: markers.Settled("", ids),
        ),
        Candidate(can(pair_states.EQUAL), markers.Equal),
        Candidate(lambda pair: pair.state == SUSPENDED, lambda ids: markers.Missed(maps(ids))),
        Candidate(
            lambda pair: pair.state != SIMPLEX,
            lambda ids: markers.Regions(dict.fromkeys(ids, grains)),
        ),
        Candidate(
            lambda pair: pair.state != SIMPLEX and bool(runs),
            lambda ids: markers.Differ(ids[0], runs),
        ),
        Candidate(is_any, markers.Same),
        Candidate(can(pair_states.DETACH), markers.Detach),
        Candidate(lambda pair: not pair.removed, lambda ids: markers.Remove(ids[0])),
    ]


def marking(sequence: int, marker: Marker) -> Step:
    return lambda ledger: fold(ledger, sequence, marker)


def tracking(number: int, grain: int) -> Step:
    return lambda ledger: ledger.track(ledger.pairs[number], WRITE, grain * GRAIN, 512)


def written(plan: Plan) -> tuple[Ledger, list[Step]]:
    """A ledger, and each step that made it again as something to do to a ledger."""
    ledger = Ledger(LIMITS)
    done: list[Step] = []

    def do(step: Step) -> None:
        step(ledger)
        done.append(step)

    for number in range(1, PAIRS + 1):
        do(marking(number, markers.NewVolume(number, f"v{number}", SIZE)))
    for sequence, (choice, members, grains) in enumerate(plan, PAIRS + 1):
        chosen = [pair for pair in ledger.pairs.values() if members & (1 << (pair.id - 1))]
        possible = [
            (each, ids)
            for each in candidates(ledger, sequence, grains)
            if (ids := [pair.id for pair in chosen if each.may(pair)])
        ]
        if possible and choice % 4:
            candidate, ids = possible[choice % len(possible)]
            do(marking(sequence, candidate.make(ids)))
        for pair in chosen:
            if not choice % 4 and pair.tracks and grains:
                do(tracking(pair.id, grains[0]))
    return ledger, done


@given(plan=st.lists(plans, max_size=25), place=st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_a_checkpoint_anywhere_changes_nothing(plan: Plan, place: float) -> None:
    whole, done = written(plan)
    middle = round(place * len(done))
    before = Ledger(LIMITS)
    for step in done[:middle]:
        step(before)
    after = restored(packed_snapshot(before, middle))
    for step in done[middle:]:
        step(after)
    assert everything(after) == everything(whole)
    assert [pair.scrub for pair in after.pairs.values()] == [
        pair.scrub for pair in whole.pairs.values()
    ]
    for number, pair in after.pairs.items():
        assert pair.regions.open <= whole.pairs[number].regions.open, (
            "a checkpoint closes regions, it opens none"
        )


@given(plan=st.lists(plans, max_size=40))
@settings(max_examples=200, deadline=None)
def test_every_invariant_holds_of_every_pair_at_every_step(plan: Plan) -> None:
    """Also of pairs that a step has not moved, which the ledger does not check."""
    _, done = written(plan)
    ledger = Ledger(LIMITS)
    for step in done:
        step(ledger)
        assert broken(ledger.pairs.values()) == ""
