"""What is true of every pair after every marker, whatever came before. Pure.

The table of pair states says which transitions are possible; this file says what has to hold
between the fields afterwards. It is checked each time a marker is folded, in production too: it
costs a few comparisons for each pair that moved, a few times a second at most, and prevents that a
secondary of unknown content is called consistent. A broken invariant is a defect of duplexd or a
damaged journal: the controller stops taking changes, and a restart is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core.pair_states import DUPLEX, PENDING, SIMPLEX, SUSPENDED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from duplexd.core.pair import PairRecord

    Rule = tuple[frozenset[str], str, Callable[[PairRecord], bool]]


def broken(pairs: Iterable[PairRecord]) -> str:
    """Which invariant does not hold, as a sentence; "" if all do for all these pairs."""
    for pair in pairs:
        for states, what, holds in _TABLE:
            if pair.state in states and not holds(pair):
                return f"{pair.name} is {pair.state}, but {what}"
    return ""


# In these states: what would be wrong, and what has to be true
_TABLE: tuple[Rule, ...] = (
    (
        frozenset({SIMPLEX}),
        "has a secondary that counts as usable",
        lambda pair: not pair.usable,
    ),
    (
        frozenset({SIMPLEX, DUPLEX}),
        "is at a cut, or has a change map",
        lambda pair: pair.cut is None and pair.changed is None,
    ),
    (
        frozenset({SIMPLEX, DUPLEX, SUSPENDED}),
        "has a staging log",
        lambda pair: not pair.staging,
    ),
    (
        frozenset({DUPLEX}),
        "its secondary is not usable",
        lambda pair: pair.usable,
    ),
    (
        frozenset({SUSPENDED}),
        "is at no cut",
        lambda pair: pair.cut is not None,
    ),
    (
        frozenset({SUSPENDED}),
        "its secondary holds changes from after the cut",
        lambda pair: pair.cut is None or not pair.usable or pair.applied <= pair.cut.sequence,
    ),
    (
        frozenset({PENDING}),
        "is unusable without a map of what to copy",
        lambda pair: pair.usable or pair.changed is not None,
    ),
)
