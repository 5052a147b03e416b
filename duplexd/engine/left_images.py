"""Secondaries that a new configuration leaves: at which number they are, durable, and closed.

An image that is taken out of its pair is a copy that somebody may want: it holds every change up to
a number, and none after it. So that number is said, in the answer of the reload and in an event,
and the image is synced before it is. It is not written to any more, so that needs no pause.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import pair_states
from duplexd.engine.opening import SECONDARY, why_absent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.core.cut import Cut
    from duplexd.core.pair import Pair
    from duplexd.engine.opening import Opener
    from duplexd.images.leg import Leg


class Left(NamedTuple):
    """`at`: the number that it holds everything up to; None if it holds no state that the volume
    ever had. `cut`: the one that it is at.
    """

    volume: str
    leg: Leg
    at: int | None
    cut: Cut | None

    def where(self) -> str:
        """For people."""
        if self.at is None:
            return "is left in no state that the volume ever had; do not use it as a copy"
        cut = f", cut {self.cut.id} ({self.cut.state})" if self.cut is not None else ""
        return f"is left at number {self.at}{cut}"


def left_by(pair: Pair, leg: Leg, written: int) -> Left:
    """What a pair leaves, before its markers are written; `written`: the last number of all."""
    if why_absent(leg) or not pair.usable or pair.record.differs is not None:
        return Left(pair.name, leg, None, None)
    if pair.state == pair_states.SUSPENDED:
        return Left(pair.name, leg, pair.applied, pair.cut)
    return Left(pair.name, leg, written if pair.mirrors else pair.applied, None)


class LeftImages:
    """Of one controller."""

    def __init__(self, opener: Opener, emit: Callable[..., None]) -> None:
        self._opener = opener
        self._emit = emit

    async def settle(self, left: Sequence[Left]) -> list[str]:
        """Make them durable, and close them; a line about each. Raises nothing for an image."""
        return [await self._settle(each) for each in left]

    async def _settle(self, left: Left) -> str:
        leg, error = left.leg, why_absent(left.leg)
        if not error:
            try:
                await self._opener.look(leg, SECONDARY, leg.sync)
            except OSError as failed:
                error = failed.strerror or str(failed)
        if error:
            left = left._replace(at=None, cut=None)
        await self._opener.close(leg)
        cut = left.cut.id if left.cut is not None else None
        self._emit(
            "secondary-left", volume=left.volume, path=leg.path, at=left.at, cut=cut, error=error
        )
        why = f": {error}" if error else ""
        return f"volume {left.volume}: {leg.path} {left.where()}{why}"
