"""What is wrong with images at a start, as a value: found when they are opened, when they are
compared with what the journal knows of them, and in the replay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.patience import SYNC, OfState
from duplexd.engine.opening import PRIMARY

if TYPE_CHECKING:
    from duplexd.core.change_map import ChangeMap
    from duplexd.core.pair import Pair
    from duplexd.images.leg import Leg


class Side(NamedTuple):
    """The image of one role of a pair: `PRIMARY` or `SECONDARY`. `syncs`: noted for a sync."""

    pair: Pair
    role: str
    syncs: bool = False

    @property
    def leg(self) -> Leg:
        """The image."""
        return self.pair.primary if self.role == PRIMARY else self.pair.copy_of

    @property
    def use(self) -> str:
        """For its time-out."""
        return SYNC if self.syncs else self.role


Noted = Side | OfState  # what the worker of a replay waits for


class Fault(NamedTuple):
    """Why an image is not what the journal says of it. `missed`: the grains that it may lack; None:
    nothing is known of its content. `whole`: it only lacks later changes, none of these grains.
    """

    error: OSError
    missed: ChangeMap | None = None
    whole: bool = False


class Faults:
    """By pair. An image is in here at most once, with the first that was found."""

    def __init__(self) -> None:
        self.primaries: dict[Pair, Fault] = {}
        self.secondaries: dict[Pair, Fault] = {}

    def of(self, role: str) -> dict[Pair, Fault]:
        """Those of a role."""
        return self.primaries if role == PRIMARY else self.secondaries

    def add(self, side: Side, fault: Fault) -> None:
        """Note one."""
        self.of(side.role).setdefault(side.pair, fault)

    def __contains__(self, side: Side) -> bool:
        return side.pair in self.of(side.role)
