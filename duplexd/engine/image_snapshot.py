"""An image at a checkpoint: at which number it is, and which samples of it are true there.

Each sample is of a number (`Image.sampled_at`). At the next checkpoint the image is at another one:
that of the checkpoint, if it gets every change; that of its cut, if it is at one; at none, if it is
on its way, and it is not known where. A secondary that trails (`async` mode) is somewhere between
two numbers, the one that it is at durably and the checkpoint's. Its samples are true at all of
them: blocks that no record between the two touches. Only blocks that were written shortly before
tell an older copy from it, so where none is known nothing is claimed of it.

What was sampled stays true

    everywhere           at the same number: the image did not leave its cut
    but in some regions  if it was sampled at the last checkpoint: these were touched since
    nowhere              else, for example at a cut, and a resync came in between

and the rest is read again. Whether a leg was synced since then says nothing of that: a suspend
syncs one beside a checkpoint, with changes that come after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import pair_states
from duplexd.engine.sampled_blocks import Recent, bounded, fixed, read
from duplexd.images.absent import AbsentLeg
from duplexd.known import known

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from duplexd.core.image_record import Image
    from duplexd.core.pair import Pair
    from duplexd.images.leg import Leg
    from duplexd.journal.segment import Segment
    from duplexd.json_object import Json

Samples = tuple[tuple[int, int], ...]


class PairSnapshot(NamedTuple):
    """A pair at the checkpoint's number; `saved` is its part of the checkpoint. `legs`: its primary
    and secondary. `touched`: regions that were written to since the checkpoint before, None if that
    is not known. `swaps`: of this run. `by_records`: whether each change of its primary since that
    checkpoint has a record: it is the same image, and only a secondary is copied to.
    """

    pair: Pair
    saved: Json
    legs: tuple[Leg, Leg | None]
    touched: frozenset[int] | None
    swaps: int
    by_records: bool = False

    @property
    def images(self) -> tuple[Image | None, Image | None]:
        """As they are recorded."""
        images: tuple[Image | None, Image | None] = self.saved["images"]
        return images

    @property
    def now(self) -> tuple[Image | None, Image | None]:
        """What is recorded of the images of both roles by now: of one that hung meanwhile, or was
        closed, as of the checkpoint too, because that is what the journal is applied to it from.
        """
        by_leg = dict(zip(self.legs, self.images, strict=True))
        by_id = {image.id: image for image in self.images if image is not None}
        pair, record = self.pair, self.pair.record

        def of(leg: Leg | None, known: Image | None) -> Image | None:
            if leg in by_leg:
                return by_leg[leg]
            return known and by_id.get(known.id, known)

        primary = of(pair.primary, record.primary_image)
        return primary, of(pair.secondary, record.secondary_image)

    @property
    def offsets(self) -> list[int]:
        """Where the secondary was sampled before, sorted."""
        theirs = self.images[1]
        return sorted(theirs.offsets) if theirs is not None else []

    def after(self, number: int) -> int:
        """The number after which its changes are on its images: they may have been adopted, at
        this checkpoint.
        """
        ours, theirs = self.images
        if ours is None:
            return number
        return max(ours.after, theirs.after if theirs is not None else 0)

    def is_old(self, offset: int) -> bool:
        """Whether nothing was written there since the checkpoint before."""
        return self.touched is not None and offset >> self.pair.regions.shift not in self.touched


class Plan(NamedTuple):
    """What is to be recorded at a checkpoint, of this number."""

    number: int
    pairs: list[PairSnapshot]
    segment: Segment
    end: int  # of the checkpoint's last record, in `segment`
    per_image: int


@dataclass(frozen=True, eq=False)
class ImageSnapshot:
    """One image to be recorded. `role`: 0 for the primary, 1 for the secondary. `known`: as it was
    recorded before; `last`: the number of the last checkpoint. `written`: of a primary that failed,
    the blocks sampled before that a record touches since; None if that is not known.
    """

    pair: PairSnapshot
    role: int
    recent: Recent
    plan: Plan
    known: Image | None
    last: int
    written: Container[int] | None = None

    @property
    def leg(self) -> Leg:
        """That is open."""
        return known(self.pair.legs[self.role], "an image that is recorded is open")

    @property
    def has_failed(self) -> bool:
        """Whether it is a primary that may lack what the journal has: its volume is not served."""
        return (
            self.role == 0 and bool(self.pair.pair.failed) and not isinstance(self.leg, AbsentLeg)
        )

    @property
    def is_current(self) -> bool:
        """Whether the image held all changes of the volume."""
        if self.role == 0:
            return True
        first, saved = max(self.plan.segment.first - 1, self.recent.sequence), self.pair.saved
        return saved["state"] == pair_states.DUPLEX and bool(saved["applied"] >= first)

    @property
    def is_trailing(self) -> bool:
        """Whether it is on its way to the tail, or to its cut, and blocks are known that it holds
        wherever it is.
        """
        saved, cut = self.pair.saved, self.pair.saved["cut"]
        walks = saved["state"] == pair_states.DUPLEX or (
            saved["state"] == pair_states.SUSPENDED and saved["usable"] and cut is not None
        )
        ends = self.is_current or self.is_at_cut
        is_known = bool(self.recent.behind) or any(map(self._still, self.known_offsets))
        return self.role == 1 and walks and not ends and is_known

    @property
    def known_offsets(self) -> list[int]:
        """Where it was sampled."""
        return self.known.offsets if self.known is not None else []

    def _still(self, offset: int) -> bool:
        """Whether no record since the last checkpoint touches a block that was sampled then, by the
        records themselves. Of a secondary: of a primary only the regions are known.
        """
        known = self.known
        if known is None or self.pair.touched is None:
            return False
        is_last = known.sampled_at == self.last and self.last >= self.plan.segment.first - 1
        are_read = self.recent.sequence <= self.plan.number  # else `touched` says nothing
        return known.sampled_at == self.plan.number or (
            is_last and are_read and offset not in self.recent.touched
        )

    @property
    def is_at_cut(self) -> bool:
        """Whether it held all changes up to its cut, and gets none after that."""
        saved, cut = self.pair.saved, self.pair.saved["cut"]
        at_cut = cut is not None and saved["applied"] >= cut[1]
        return saved["state"] == pair_states.SUSPENDED and saved["usable"] and at_cut

    @property
    def number(self) -> int:
        """It holds the changes up to this number, and gets only later ones, which are in the
        journal after the checkpoint; 0 if it is about to get others.
        """
        if self.is_current or self.is_trailing:
            return self.plan.number
        return int(self.pair.saved["cut"][1]) if self.is_at_cut else 0

    @cached_property
    def left(self) -> Image | None:
        """What is still true of what was recorded before; where it is at no number, until it gets
        changes. Each sample is looked at, and several ask.
        """
        known, number = self.known, self.number or self.plan.number
        if known is None or known.sampled_at == number:
            return known
        is_last = known.sampled_at == self.last
        if is_last and self.is_trailing:
            return known.at(number, lambda at: self.pair.is_old(at) or self._still(at))
        return known.at(number, self.pair.is_old if is_last else _nowhere)

    @property
    def is_sampled(self) -> bool:
        """Whether all that was sampled before is still true."""
        known, left = self.known, self.left
        return known is not None and left is not None and left.samples == known.samples != ()

    def unread(self) -> Image | None:
        """What to record of an image that need not be looked at."""
        left = self.left
        return left if left is None or self.number else left.at(0, _nowhere)

    def unseen(self) -> Image | None:
        """What to record of an image that is not there, or fails: what was written since the last
        checkpoint may be on it, or not. A call that hangs may also change its time when it returns
        at last. A primary whose regions were written to keeps the blocks that no record touches: an
        older copy may differ in nothing else.
        """
        left, known, leg = self.left, self.known, self.leg
        if left is None or known is None:
            return None
        if self.written is not None:
            left = known.at(left.sampled_at, self._is_unwritten)
        is_busy = isinstance(leg, AbsentLeg) and leg.busy
        unchanged = self.pair.touched == frozenset() and left.samples == known.samples
        return left if unchanged and not is_busy else left._replace(loose=True)

    def still_absent(self) -> Image | None:
        """The same of one that was not there at the last checkpoint either, so that nobody has
        written to it. A primary gets later what the journal has since then: of what a start has
        counted, that start has left out the very blocks already (`identity.away`).
        """
        known = self.known
        if known is None or self.role or self.pair.pair.lacks is not None:
            return known
        return known.at(known.sampled_at, self._is_unwritten)

    def _is_unwritten(self, offset: int) -> bool:
        """Whether nothing was written there since the last checkpoint."""
        by_record = self.written is not None and offset not in self.written
        return by_record or self.pair.is_old(offset)

    def record(self, image: Image | None) -> None:
        """In the checkpoint."""
        self.pair.saved["images"] = tuple(
            image if role == self.role else other for role, other in enumerate(self.pair.images)
        )

    # ------------------------------------------------------------------------------- in a worker

    def samples(self) -> Samples:
        """What is true of it at its number. Raises OSError."""
        pair, recent, left = self.pair.pair, self.recent.blocks, self.left
        always = fixed(pair.id, pair.size, self.plan.per_image // 2)
        kept = {} if left is None else dict(left.samples)
        before = [] if self.known is None else self.known.offsets  # the last to be written, or not
        wanted = always.union(recent, before)
        if self.is_trailing:
            return self._of_trailing(kept, always.union(before), always)
        if self.is_current:
            wanted |= self.recent.earlier.keys()
            kept = {offset: crc for offset, crc in kept.items() if offset not in recent}
            found = read(self.leg, wanted - kept.keys() - recent.keys(), _untouched(self.pair))
            return bounded({**kept, **found, **recent}, always, self.plan.per_image)
        if self.is_at_cut:
            found = read(self.leg, wanted - kept.keys(), _still_at_cut(self))
            return bounded({**kept, **found}, always, self.plan.per_image)
        return ()

    def _of_trailing(self, kept: dict[int, int], wanted: set[int], always: set[int]) -> Samples:
        """Read is what no record touches that it may lack, or is about to get."""
        pair, behind = self.pair, self.recent.behind
        kept = {offset: crc for offset, crc in kept.items() if offset not in behind}
        still = {offset for offset in wanted - kept.keys() - behind.keys() if pair.is_old(offset)}
        if pair.saved["applied"] < self.last:
            still = set()
        found = read(self.leg, still, _untouched(pair))
        return bounded({**kept, **found, **behind}, always, self.plan.per_image)


def _untouched(pair: PairSnapshot) -> Callable[[int], bool]:
    """Whether nothing was written there since the checkpoint's number. The write path says where it
    is going to write before it does; of a pair without a secondary only that it does. Of one that
    has lost that secondary since, it says nothing.
    """
    of, regions, secondary = pair.pair, pair.pair.regions, pair.legs[1]
    if secondary is None:
        return lambda _offset: not of.primary_dirty

    def holds(offset: int) -> bool:
        return of.secondary is secondary and offset >> regions.shift not in regions.touched

    return holds


def _still_at_cut(image: ImageSnapshot) -> Callable[[int], bool]:
    """Whether nothing is written to the secondary, or was meanwhile."""
    of, leg, at = image.pair.pair, image.leg, image.number

    def holds(_offset: int) -> bool:
        at_cut = of.state == pair_states.SUSPENDED and of.cut is not None and of.cut.sequence == at
        return at_cut and of.secondary is leg and not of.secondary_dirty

    return holds


def _nowhere(_offset: int) -> bool:
    return False
