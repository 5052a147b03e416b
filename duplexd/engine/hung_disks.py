"""Images of one disk: once one of them does not answer, the others do not get a time-out each.

Batches run one after the other, so every client would wait for one time-out after the other of the
images on a disk that hangs. Instead

    - when a call in a batch has not been answered for a second, or a quarter of its time-out, all
      others on that disk that batches write to are asked for a few bytes, at once and each in a
      worker of its own. Who has not answered either when that call is given up, is given up with
      it: their time-outs pass at the same time;
    - then the disk is *silent*, until a batch has written to one of its images. What it was silent
      for counts for the others: a call on them is given up after what that leaves of their
      time-out, at least a short wait, which halves with each call that is given up. This is for a
      disk that returns what is read, and hangs in writes only.

No image is given up unasked. A disk is what the kernel calls a device: the images of one file
system, also of an NFS or FUSE mount, have it in common.

Considered and rejected: to give up all images of a disk after the second (if two are slow, a
thousand pairs are lost), and to apply the volumes of a batch side by side (a batch seldom has all
of them, and a group is suspended at one number).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.patience import PRIMARY, SECONDARY, Access
from duplexd.limits import DISK_ASKED_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from duplexd.core.pair import Pair, PairChange
    from duplexd.core.patience import Patience
    from duplexd.engine.batch import Batch
    from duplexd.images.leg import Leg
    from duplexd.replication.leg_calls import LegCalls

ASK_AFTER_SECONDS = 1.0  # at most a quarter of the time-out
SHORT_WAIT_SECONDS = 0.5
SHORT_WAIT_SECONDS_MIN = 0.1
LOOK_SILENT_SECONDS = 0.05  # between two looks at a call while a disk is silent
_ASKED_BYTES = 4096


class Silence(NamedTuple):
    """Of one disk: for how long calls in batches have not been answered, of how many images, and
    when the last one was given up.
    """

    seconds: float
    images: int
    at: float


class HungDisks:
    """Called by the executor of batches, in the loop. `silent`: disks, by device; `unanswered`:
    legs that were asked.
    """

    def __init__(self, pairs: Mapping[int, Pair], legs: LegCalls) -> None:
        self._pairs = pairs  # that are served, by number
        self._legs = legs
        self.silent: dict[str, Silence] = {}
        self.unanswered: dict[Leg, Access] = {}
        self._asks: set[asyncio.Task[None]] = set()
        self._asked = False  # because of the call that a batch waits for

    @property
    def patience(self) -> Patience:
        """How long a call may take as long as no disk is silent."""
        return self._legs.patience

    def seconds(self, leg: Leg, use: str) -> float:
        """How long a call on a leg in a batch may take."""
        full = self.patience.seconds(use)
        silence = self.silent.get(leg.device)
        if silence is None:
            return full
        short = max(SHORT_WAIT_SECONDS * 0.5 ** (silence.images - 1), SHORT_WAIT_SECONDS_MIN)
        return min(max(short, full - silence.seconds), full)

    def waits(self, leg: Leg, use: str, waited_s: float) -> None:
        """A call on this leg in a batch has not been answered for so long."""
        if waited_s < min(ASK_AFTER_SECONDS, self.patience.seconds(use) / 4):
            self._asked = False
        elif not self._asked:
            self._asked = True
            self._ask_others(leg)

    def gave_up(self, leg: Leg, waited_s: float) -> list[Access]:
        """That call was given up; returns those on the same disk that are given up with it. They
        have not answered since they were asked, and their time-out is no longer than the silence.
        """
        if not leg.device:
            return []
        now = asyncio.get_running_loop().time()
        before = self.silent.get(leg.device, Silence(0.0, 0, now))
        silence = Silence(before.seconds + waited_s, before.images + 1, now)
        self.silent[leg.device] = silence
        silent = [
            access
            for access in self.unanswered.values()
            if access.leg.device == leg.device
            and self.patience.seconds(access.use) <= silence.seconds
        ]
        return [access for access in silent if access in _written(access.pair)]

    def heard(self, batch: Batch, changes: Sequence[PairChange]) -> None:
        """These changes of a batch were applied: the disks of the legs that have them answer."""
        for change in changes:
            pair = change.volume
            if pair not in batch.dead:
                self.silent.pop(pair.primary.device, None)
            if pair.secondary is not None and pair.mirrors and pair not in batch.frozen:
                self.silent.pop(pair.secondary.device, None)

    def forget(self) -> None:
        """What was silent long ago: what is on it by now was opened anew."""
        since = asyncio.get_running_loop().time() - self.patience.primary_s
        self.silent = {disk: each for disk, each in self.silent.items() if each.at > since}

    # ---------------------------------------------------------------------------- the question

    def _ask_others(self, leg: Leg) -> None:
        """All that batches write to, on the disk of this leg."""
        others = [
            access
            for pair in self._pairs.values()
            for access in _written(pair)
            if access.leg is not leg and leg.device and access.leg.device == leg.device
        ]
        for access in others[:DISK_ASKED_MAX]:
            if access.leg not in self.unanswered:
                self.unanswered[access.leg] = access
                task = asyncio.get_running_loop().create_task(self._ask(access), name="ask a leg")
                self._asks.add(task)
                task.add_done_callback(self._asks.discard)

    async def _ask(self, access: Access) -> None:
        """One that hangs is given up by who calls for us, and fails like any leg that does."""
        pair, leg, use = access
        buffer = bytearray(min(_ASKED_BYTES, leg.size))
        with suppress(OSError):  # an error is an answer
            await self._legs.on(pair, leg, use, lambda: leg.read_medium(0, memoryview(buffer)))
        self.unanswered.pop(leg, None)


def _written(pair: Pair) -> list[Access]:
    """The legs of a pair that batches write to."""
    legs = [] if pair.failed else [Access(pair, pair.primary, PRIMARY)]
    if pair.secondary is not None and pair.mirrors:
        legs.append(Access(pair, pair.secondary, SECONDARY))
    return legs
