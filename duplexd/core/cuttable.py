"""Which pairs can be suspended at one cut: those that are all DUPLEX. Pure.

A cut promises that all secondaries hold the same prefix of the sequence. A secondary that is being
copied, or that is suspended at another cut already, cannot keep that promise. So the states are
checked first: before the marker of a suspend, and before the hold of a group, which would make
writes wait for a cut that cannot be made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core.pair_states import DUPLEX, PENDING, SUSPENDED
from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.core.pair import Pair

_LISTED_MAX = 5  # in an error message


def check_all_duplex(pairs: Sequence[Pair]) -> None:
    """Raises WrongStateError unless all are DUPLEX; it names those that are not, and what to do."""
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
