"""How long a call on a leg may take before its image counts as failed. Pure.

The time-out belongs to what the image is used for, not to the image. A secondary is given up early,
because without it nothing but redundancy is lost; a primary late, because without it and without a
current secondary the volume is lost. A sync is given the longer time on either leg: a disk with
much to write is not one that hangs. A read of the journal and a call on a staging log are given it
too, because what they give has no other source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from duplexd.limits import PRIMARY_TIMEOUT_SECONDS_DEFAULT, SECONDARY_TIMEOUT_SECONDS_DEFAULT

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from duplexd.core.pair import Pair
    from duplexd.images.leg import Leg

PRIMARY, SECONDARY, SYNC = "primary", "secondary", "sync"  # uses of a leg
JOURNAL, STAGING, OVERLAY = "journal", "staging log", "overlay"


class Patience(NamedTuple):
    """The two time-outs of the configuration, in seconds."""

    secondary_s: float = SECONDARY_TIMEOUT_SECONDS_DEFAULT
    primary_s: float = PRIMARY_TIMEOUT_SECONDS_DEFAULT

    def seconds(self, use: str) -> float:
        """How long a call of this use may take."""
        return self.secondary_s if use == SECONDARY else self.primary_s


class Access(NamedTuple):
    """What a thread waits for: a call on a leg of a pair, which is used as `use`."""

    pair: Pair
    leg: Leg
    use: str


class JournalRead(NamedTuple):
    """What a thread waits for that follows the journal: a read of it, unless `does` says otherwise.
    `path`: its directory.
    """

    path: str
    use: str = JOURNAL
    does: str = "read"


class StagingCall(NamedTuple):
    """What a thread waits for that writes, reads or removes a staging log. `path`: its directory,
    or its file.
    """

    path: str
    use: str = STAGING


class OverlayCall(NamedTuple):
    """What a thread waits for that uses the overlay of a clone. `path`: its directory."""

    path: str
    use: str = OVERLAY


OfState = JournalRead | StagingCall | OverlayCall  # on files of the state directory
Waited = Access | OfState


class StateNotes(Protocol):
    """A watch, for those who note in it only calls on files of the state directory."""

    def at(self, what: OfState, /) -> AbstractContextManager[None]:
        """See `runtime.watch.Watch`."""
