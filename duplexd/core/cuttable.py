"""Which pairs can be suspended at one cut: those that are all DUPLEX, and equal. Pure.

Pairs that are all at one cut already are not suspended again: that cut is not the one that was
asked for, and a backup of it would be one of the past. Who wants it anyhow has to say so; and if it
was a failure that stopped them, nobody chose that point.

A cut promises that all secondaries hold the same prefix of the sequence. A secondary that is being
copied, or that is suspended at another cut already, cannot keep that promise. Nor can one that is
known to differ from its primary, because one of the two is wrong. So this is
checked first: before the marker of a suspend, and before the hold of a group, which would make
writes wait for a cut that cannot be made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NoReturn

from duplexd.core.pair_states import BY_COMMAND, DUPLEX, PENDING, SUSPENDED
from duplexd.errors import WrongStateError
from duplexd.printable import printable
from duplexd.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from duplexd.core.pair import Pair, PairRecord

_LISTED_MAX = 5  # in an error message


class Standing(NamedTuple):
    """The cut that pairs are at, before a suspend; `reasons`: why each of them is."""

    cut_id: str
    tag: str
    age_s: float
    reasons: frozenset[str]


def check_standing(standing: Standing, allowed: bool) -> None:
    """Raises WrongStateError unless that cut may be the answer to a suspend."""
    cut_id, tag, age_s, reasons = standing
    chosen = reasons <= {BY_COMMAND}
    if allowed and chosen:
        return
    tagged = f"tag {printable(tag)!r}, " if tag else "no tag, "
    why = ", ".join(sorted(reasons, key=BY_COMMAND.__eq__))
    todo = (
        "resync and suspend again, or take that cut with --allow-existing"
        if chosen
        else "nobody asked for that cut; resync, then suspend"
    )
    raise WrongStateError(
        f"suspended already: cut {cut_id} ({tagged}{format_duration(age_s)} old, {printable(why)});"
        f" nothing was done; {todo}"
    )


def check_can_be_cut(pairs: Sequence[Pair]) -> None:
    """Raises WrongStateError unless all are DUPLEX, and no legs are known to differ; it names those
    in the way, and what to do.
    """
    _check_all_duplex(pairs)
    check_equal(pairs)


def check_equal(pairs: Iterable[Pair]) -> None:
    """Raises WrongStateError if the legs of some are known to differ."""
    differing = [pair.record for pair in pairs if pair.record.differs is not None]
    if differing:
        refuse_differing(differing)


def refuse_differing(records: Iterable[PairRecord]) -> NoReturn:
    """Raises WrongStateError for these pairs, whose legs are known to differ."""
    found = [(pair.name, pair.differs) for pair in records if pair.differs is not None]
    listed = "; ".join(f"{name}: {differs.text}" for name, differs in found[:_LISTED_MAX])
    more = f"; and {len(found) - _LISTED_MAX} more" if len(found) > _LISTED_MAX else ""
    raise WrongStateError(
        f"a pair whose legs differ cannot be suspended, because its secondary may be wrong: "
        f"{listed}{more}; find out which image is right, then "
        f"`duplexctl repair {found[0][0]} --from primary|secondary`"
    )


def _check_all_duplex(pairs: Sequence[Pair]) -> None:
    wrong = [record for pair in pairs if (record := pair.record).state != DUPLEX]
    if not wrong:
        return
    listed = ", ".join(
        f"{pair.name} is {pair.state}" + (f" ({pair.reason})" if pair.reason else "")
        for pair in wrong[:_LISTED_MAX]
    )
    more = f" and {len(wrong) - _LISTED_MAX} more" if len(wrong) > _LISTED_MAX else ""
    states = {pair.state for pair in wrong}
    if SUSPENDED in states:
        todo = "resync --wait brings suspended pairs back"
    elif PENDING in states:
        todo = "wait until they are DUPLEX"
    else:
        todo = "a volume without secondary can't be suspended"
    raise WrongStateError(
        f"only pairs that are all DUPLEX can be suspended at one cut: {listed}{more}; {todo}"
    )
