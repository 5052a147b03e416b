"""What a checkpoint records of the images: their ids, times, and samples of their content.

A start compares them with what it finds (`core/identity.py`). A sample has to be exact: the content
of a block on the medium at the checkpoint's number, although writes go on while it is taken. So

    blocks written last  come from the journal, up to that number: no leg is read
    other blocks         are read after the sync, and dropped if their region was touched meanwhile

An image that was not written to since it was recorded stays recorded as it was. The number of
samples of an image depends on the number of images, so that neither a checkpoint nor a start reads
more than SAMPLES_MAX blocks, which takes a disk with a moving head about a minute.

The time is taken before the sync, which makes it durable: after a power cut no image is older.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import pair_states
from duplexd.core.image import Image
from duplexd.core.since import EVERYTHING
from duplexd.images.identity import SAMPLE_BYTES, Mark, brand, checksum
from duplexd.journal.format import SEGMENT_HEADER_BYTES, TRIM, WRITE, ZERO, crc32c, unpack_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from duplexd.core.pair import Pair
    from duplexd.engine.timeline import Timeline
    from duplexd.images.leg import Leg
    from duplexd.journal.segment import Segment
    from duplexd.json_object import Json
    from duplexd.runtime.stamp import Stamp

SAMPLES_MAX = 8192  # of all images
_PER_IMAGE_MAX, _PER_IMAGE_MIN = 64, 4
_BLOCKS_OF_A_CHANGE = 2  # its first and its last
_SPREAD = 0x9E3779B97F4A7C15  # multiples of it, modulo any number, lie apart
_ZERO_CRC = crc32c(bytes(SAMPLE_BYTES))


class _Pair(NamedTuple):
    """A pair at the checkpoint's number; `saved` is its part of the checkpoint. `touched`: regions
    that were written to since the checkpoint before, None if that is not known.
    """

    pair: Pair
    saved: Json
    primary: Leg
    secondary: Leg | None
    touched: frozenset[int] | None

    def is_old(self, offset: int) -> bool:
        """Whether nothing was written there since the checkpoint before."""
        return self.touched is not None and offset >> self.pair.regions.shift not in self.touched


class Plan(NamedTuple):
    """What is to be recorded at a checkpoint."""

    pairs: list[_Pair]
    segment: Segment
    end: int  # of the checkpoint's last record, in `segment`
    per_image: int


class Recent(NamedTuple):
    """The blocks of a volume that were written last, latest last, with their checksums; and the
    number of the last change.
    """

    blocks: dict[int, int]
    sequence: int


class Samples:
    """Of one controller. `sync` and `take` run in a worker, the rest in the loop."""

    def __init__(self, timeline: Timeline, name: str) -> None:
        self._timeline = timeline
        self._controller = timeline.writer.ring.controller.hex()
        self._name = name
        self._stamps: dict[Leg, Stamp] = {}  # of legs that were written to, before their last sync
        self._taken: list[Leg] = []  # those of them that the coming checkpoint records
        self._touched: dict[int, set[int]] = {}  # regions, by volume, since the last checkpoint
        self._branded: set[Leg] = set()  # carry the mark of this start

    def sync(self, leg: Leg) -> None:
        """Sync a leg that was written to, and its time. Raises OSError."""
        self._stamps[leg] = leg.stamp()
        leg.sync(times=True)

    def plan(self, saved: Json, pairs: Sequence[Pair]) -> Plan:
        """At rest, before the regions are closed: `saved` is the checkpoint."""
        by_id = {pair["id"]: pair for pair in saved["pairs"]}
        planned = [self._plan_one(pair, by_id[pair.id]) for pair in pairs]
        legs = {
            leg for pair in planned for leg in (pair.primary, pair.secondary) if leg is not None
        }
        self._branded &= legs
        self._stamps = {leg: stamp for leg, stamp in self._stamps.items() if leg in legs}
        per_image = max(min(SAMPLES_MAX // max(len(legs), 1), _PER_IMAGE_MAX), _PER_IMAGE_MIN)
        self._taken = []
        return Plan(planned, self._timeline.writer.segment, saved["offset"], per_image)

    def _plan_one(self, pair: Pair, saved: Json) -> _Pair:
        touched = self._touched.setdefault(pair.id, set())
        touched.update(saved["regions"])
        known = None if pair.secondary is None else frozenset(touched)
        return _Pair(pair, saved, pair.primary, pair.secondary, known)

    # ------------------------------------------------------------------------------- in a worker

    def take(self, plan: Plan) -> None:
        """Record the images, in the checkpoint that the plan was made for. Blocking.

        An image that cannot be read here stays recorded as it was: its next use finds that out.
        """
        recent: dict[int, Recent] = {}
        if self._stamps:
            with contextlib.suppress(OSError):  # what cannot be read back is not sampled
                recent = _recent(plan)
        for pair in plan.pairs:
            primary, secondary = pair.saved["images"]
            changes = recent.get(pair.pair.id, Recent({}, 0))
            pair.saved["images"] = (
                self._image(pair, pair.primary, primary, "primary", changes, plan),
                pair.secondary
                and self._image(pair, pair.secondary, secondary, "secondary", changes, plan),
            )

    def _image(
        self, pair: _Pair, leg: Leg, known: Image | None, role: str, recent: Recent, plan: Plan
    ) -> Image | None:
        stamp = self._stamps.get(leg)
        try:
            image = self._marked(pair, leg, known)
            if known is None or stamp is not None:
                image = self._sampled(pair, leg, image, stamp or leg.stamp(), role, recent, plan)
        except OSError:
            # not there: what came since the last checkpoint may be on it, or not
            touched = EVERYTHING if pair.touched is None else pair.touched
            if known is None or touched == frozenset():
                return known
            return known.written(touched, pair.pair.regions.shift)
        self._taken.append(leg)
        return image

    def _marked(self, pair: _Pair, leg: Leg, known: Image | None) -> Image:
        """Its id and mark, which are written once in each run of the daemon."""
        generation = self._timeline.ledger.starts
        if known is not None and leg in self._branded:
            # by now a sync has made that mark durable, if there was one
            made = leg in self._stamps and known.marked
            return known._replace(generation=generation) if made else known
        number = secrets.token_hex(16) if known is None else known.id
        mark = Mark(number, self._controller, self._name, pair.pair.name, generation)
        marked = brand(leg, mark, durable=known is None)
        self._branded.add(leg)
        if known is None:
            return Image(number, leg.path, "", 0, marked, generation)
        return known._replace(path=leg.path, place=leg.stamp().place, marked=marked)

    def _sampled(
        self,
        pair: _Pair,
        leg: Leg,
        image: Image,
        stamp: Stamp,
        role: str,
        recent: Recent,
        plan: Plan,
    ) -> Image:
        known = dict(image.samples)
        if role == "primary" or _is_current(pair, recent, plan):
            latest = recent.blocks
            kept = {
                offset: crc
                for offset, crc in known.items()
                if pair.is_old(offset) and offset not in latest
            }
            wanted = _fixed(pair.pair, plan) - kept.keys() - latest.keys()
            found = {**kept, **_read(leg, wanted, _untouched(pair)), **latest}
        elif _is_at_cut(pair):
            wanted = _fixed(pair.pair, plan) | known.keys() | recent.blocks.keys()
            found = _read(leg, wanted, lambda _offset: not pair.pair.secondary_dirty)
        else:
            found = {}
        samples = _bounded(found, _fixed(pair.pair, plan), plan.per_image)
        return image._replace(
            path=leg.path, place=stamp.place, mtime_ns=stamp.mtime_ns, samples=samples, loose=False
        )

    # --------------------------------------------------------------------------------- afterwards

    def recorded(self, plan: Plan) -> None:
        """The checkpoint is on the disk. Roles that were exchanged meanwhile stay exchanged."""
        ledger = self._timeline.ledger
        for leg in self._taken:
            self._stamps.pop(leg, None)
        self._touched.clear()
        for pair, saved, primary, secondary, _ in plan.pairs:
            ours, theirs = saved["images"]
            if pair.primary is secondary and secondary is not None:
                ours, theirs = theirs, ours
            elif pair.primary is not primary or pair.secondary is not secondary:
                continue
            ledger.use_images(pair.record, ours, theirs)


# ------------------------------------------------------------------------------------- the blocks


def _fixed(pair: Pair, plan: Plan) -> set[int]:
    """The first block, the last, and some between, the same ones each time."""
    blocks = pair.size // SAMPLE_BYTES
    between = {(pair.id + place) * _SPREAD % blocks for place in range(plan.per_image // 2 - 2)}
    return {block * SAMPLE_BYTES for block in between | {0, blocks - 1}}


def _bounded(
    found: dict[int, int], fixed: set[int], samples_max: int
) -> tuple[tuple[int, int], ...]:
    """The fixed ones, and of the others the latest, which are last in `found` and stay so."""
    always = [sample for sample in found.items() if sample[0] in fixed]
    others = [sample for sample in found.items() if sample[0] not in fixed]
    return (*always, *others[len(others) - min(len(others), samples_max - len(always)) :])


def _read(leg: Leg, offsets: Iterable[int], holds: Callable[[int], bool]) -> dict[int, int]:
    """The checksums of these blocks, of those that `holds` says were not written to meanwhile."""
    found: dict[int, int] = {}
    for offset in sorted(offsets):
        with contextlib.suppress(OSError):  # it is not a sample, then; who reads it finds out
            found[offset] = checksum(leg, offset)
    return {offset: crc for offset, crc in found.items() if holds(offset)}


def _untouched(pair: _Pair) -> Callable[[int], bool]:
    """Whether nothing was written there since the checkpoint's number. The write path says where it
    is going to write before it does; of a pair without a secondary only that it does.
    """
    of, regions = pair.pair, pair.pair.regions
    if pair.secondary is None:
        return lambda _offset: not of.primary_dirty
    return lambda offset: offset >> regions.shift not in regions.touched


def _is_current(pair: _Pair, recent: Recent, plan: Plan) -> bool:
    """Whether the secondary held all changes of the volume."""
    first = max(plan.segment.first - 1, recent.sequence)
    saved = pair.saved
    return saved["state"] == pair_states.DUPLEX and bool(saved["applied"] >= first)


def _is_at_cut(pair: _Pair) -> bool:
    saved, cut = pair.saved, pair.saved["cut"]
    at_cut = cut is not None and saved["applied"] >= cut[1]
    return saved["state"] == pair_states.SUSPENDED and saved["usable"] and at_cut


def _recent(plan: Plan) -> dict[int, Recent]:
    """By volume, from the segment that the checkpoint ends in. Blocks that were written in part are
    left out: what they hold is not in the journal.
    """
    found: dict[int, Recent] = {}
    buffer = plan.segment.file.read(0, plan.end)
    at = SEGMENT_HEADER_BYTES
    while at < plan.end and (record := unpack_record(buffer, at)) is not None:
        at = record.end
        if record.kind not in (WRITE, ZERO, TRIM):
            continue
        blocks = found[record.volume].blocks if record.volume in found else {}
        found[record.volume] = Recent(blocks, record.sequence)
        end = record.offset + record.length
        _forget(blocks, record.offset, end, plan.per_image)
        if record.kind == TRIM:  # what is there now depends on the image
            continue
        first = -(-record.offset // SAMPLE_BYTES) * SAMPLE_BYTES
        last = end // SAMPLE_BYTES * SAMPLE_BYTES - SAMPLE_BYTES
        for offset in sorted({first, last} if first <= last else ()):
            start = record.payload_start + offset - record.offset
            content = buffer[start : start + SAMPLE_BYTES]
            blocks[offset] = crc32c(content) if record.kind == WRITE else _ZERO_CRC
    return found


def _forget(blocks: dict[int, int], start: int, end: int, kept_max: int) -> None:
    """Drop the blocks in a range that is written to again, and those that are too many."""
    first = start // SAMPLE_BYTES * SAMPLE_BYTES
    if end - first <= SAMPLE_BYTES:  # the common case
        blocks.pop(first, None)
    else:
        for offset in [offset for offset in blocks if first <= offset < end]:
            del blocks[offset]
    while len(blocks) > kept_max:
        del blocks[next(iter(blocks))]
