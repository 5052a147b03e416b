"""What the journal says was written to the images since the checkpoint, as recovery reads it.

A checkpoint records the images as they were (`core/identity.py`). What came later is in the journal
and is not held against them. Fed with each record while the journal is read, so it only remembers
which sampled blocks were touched, and the first change of the last batch of each volume.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from fastcrc import crc32

from duplexd.backend import TRIM, WRITE
from duplexd.core import pair_states
from duplexd.core.identity import Facts, Known, Writing
from duplexd.images.probe import SAMPLE_BYTES, Piece

if TYPE_CHECKING:
    from collections.abc import Container

    from duplexd.core.ledger import Ledger
    from duplexd.core.pair import PairRecord
    from duplexd.journal.format import Record
    from duplexd.json_object import Json

# Markers after which a secondary is written to, or not, as before.
_NEUTRAL = frozenset(
    {"open", "close", "regions", "missed", "grade", "cut", "stood", "ready", "agreed", "void"}
    | {"synced", "mark", "drilled", "grow"}
)
_checksum = crc32.iscsi


class _Everything:
    """Every offset."""

    def __contains__(self, _offset: object) -> bool:
        return True


EVERYTHING = _Everything()


class _Saved(NamedTuple):
    """Of a pair in the checkpoint."""

    state: str
    settled: bool  # the secondary was where it had to be: at its cut, or at the checkpoint's number
    usable: bool  # it was there, or on its way from a number to one
    rebuildable: bool  # it failed on that way; nothing is written to it
    delayed: bool  # it was kept behind, and a cut lets it go on
    offsets: list[int]  # sampled, of both images, sorted
    served: bool  # its primary held everything


class _Volume:
    """Of one volume since then."""

    __slots__ = (
        "became",
        "last",
        "last_us",
        "late",
        "moved",
        "saved",
        "swapped",
        "touched",
        "written",
    )

    def __init__(self, saved: _Saved) -> None:
        self.saved = saved
        self.touched: set[int] = set()
        self.became: dict[int, tuple[int, int]] = {}  # of those written whole: checksum, time
        self.written = False
        self.moved = False  # a marker changed what is done to the secondary
        self.swapped = False
        self.late = False  # the primary may be written to without a record
        self.last_us = 0
        self.last: Piece | None = None


class Since:
    """Made of a ledger as the checkpoint at number `sequence`, of time `time_ns`, left it. `change`
    and `marker` are called for each record after it, in order.
    """

    def __init__(self, ledger: Ledger, sequence: int, time_ns: int) -> None:
        self._closed = ledger.closed
        self._end_ns = time_ns
        self._least_ns = 0
        self._written = False
        self._volumes = {pair.id: _Volume(_saved(pair, sequence)) for pair in ledger.pairs.values()}

    def change(self, record: Record, payload: memoryview) -> None:
        """A WRITE, WRITE_ZEROES or TRIM."""
        kind, offset, length = record.kind, record.offset, record.length
        self._written = True
        self._note_time(record)
        seen = self._volumes.get(record.volume)
        if seen is None:  # a new one: nothing is recorded of its images
            return
        seen.written = True
        end = offset + length
        offsets = seen.saved.offsets
        place = bisect_right(offsets, offset - SAMPLE_BYTES)
        while place < len(offsets) and offsets[place] < end:
            at = offsets[place]
            seen.touched.add(at)
            seen.became.pop(at, None)
            if kind == WRITE and offset <= at and at + SAMPLE_BYTES <= end:
                block = payload[at - offset : at - offset + SAMPLE_BYTES]
                seen.became[at] = _checksum(block), record.time_us
            place += 1
        if record.time_us != seen.last_us:
            seen.last_us = record.time_us
            seen.last = None if kind == TRIM else _piece(kind, offset, length, payload)
        elif seen.last is not None and seen.last.offset < end and offset < seen.last.end:
            seen.last = None  # changed twice by this batch: either may be there

    def marker(self, record: Record, fields: Json) -> None:
        """A marker, as it was read."""
        self._note_time(record)
        kind = fields.get("m")
        for number in fields.get("late", ()):
            if int(number) in self._volumes:
                self._volumes[int(number)].late = True
        if kind in _NEUTRAL and kind != "cut":
            return
        volumes = fields.get("volumes", ())
        for number in [*volumes, *([fields["id"]] if isinstance(fields.get("id"), int) else [])]:
            seen = self._volumes.get(int(number))
            if seen is not None:
                seen.moved |= kind != "cut" or seen.saved.delayed
                seen.swapped |= kind == "swap"

    def _note_time(self, record: Record) -> None:
        at = record.time_us * 1000
        self._end_ns = max(self._end_ns, at)
        self._least_ns = min(self._least_ns or at, at)

    def facts(self, pair: PairRecord, complete: bool, mirrors: bool) -> tuple[Facts, Facts]:
        """For the primary and the secondary of a pair, once all is folded.

        `complete`: the machine has not rebooted since, so no record was lost. `mirrors`: the pair
        is in sync mode.
        """
        seen = self._volumes.get(pair.id)
        if seen is None:
            return Facts(), Facts()
        complete = complete or (self._closed and not self._written)
        common = Facts(
            touched=seen.touched,
            uncertain=() if complete else uncertain(pair, seen.saved.state),
            complete=complete,
            last_ns=seen.last_us * 1000,
            last=seen.last,
            before_last={at: crc for at, (crc, us) in seen.became.items() if us != seen.last_us},
            end_ns=self._end_ns,
            least_ns=self._least_ns,
        )
        writing: Writing = "records" if seen.written else "nothing"
        primary = common._replace(writing="anything" if seen.late else writing)
        if not (seen.saved.served or seen.late or seen.written):  # nor since: nobody wrote to it
            primary = primary._replace(uncertain=())
        secondary = self._secondary(seen, common, mirrors)
        if seen.swapped:  # and each image may have been copied to, while it was the secondary
            anything = common._replace(writing="anything", touched=EVERYTHING)
            return anything, anything
        return primary, secondary

    def _secondary(self, seen: _Volume, common: Facts, mirrors: bool) -> Facts:
        state, settled = seen.saved.state, seen.saved.settled
        anything = common._replace(writing="anything")
        if state == pair_states.SUSPENDED and seen.saved.usable and not seen.moved:
            return (common if settled else anything)._replace(touched=(), uncertain=())
        if seen.saved.rebuildable and not seen.moved:
            return common._replace(touched=EVERYTHING, uncertain=())  # its time says the rest
        if state != pair_states.DUPLEX:
            return anything._replace(touched=EVERYTHING)
        stopped = self._closed and not self._written  # and its follower with it
        if not seen.written and not seen.moved and (settled or stopped):
            return common
        if seen.moved or not mirrors:
            return anything
        return common._replace(writing="records")


def uncertain(pair: PairRecord, state_before: str) -> Container[int]:
    """Where an image may have a change whose record was lost, or that nobody knows of. Of a pair
    without a secondary the journal does not know the open regions.
    """
    simplex = pair_states.SIMPLEX in (pair.state, state_before)
    return EVERYTHING if simplex else _InRegions(pair)


class _InRegions:
    """The offsets of the regions in which the legs may differ."""

    def __init__(self, pair: PairRecord) -> None:
        self._shift = pair.regions.shift
        self._regions = pair.regions.open | pair.regions.touched

    def __contains__(self, offset: object) -> bool:
        return isinstance(offset, int) and offset >> self._shift in self._regions


def known(ledger: Ledger, controller: str, end: int) -> Known:
    """What the marks of images are compared with; the journal ends at number `end`."""
    images = {
        image.id: (pair.name, role)
        for pair in ledger.pairs.values()
        if not pair.removed
        for role, image in (("primary", pair.primary_image), ("secondary", pair.secondary_image))
        if image is not None
    }
    return Known(controller, ledger.starts, images, ledger.ahead, end)


def _saved(pair: PairRecord, sequence: int) -> _Saved:
    images = (pair.primary_image, pair.secondary_image)
    offsets = {offset for image in images if image is not None for offset in image.offsets}
    arrived, usable = pair.applied >= pair.limit(sequence), pair.usable and not pair.staging
    delayed = pair.horizon is not None
    rebuildable = pair.state == pair_states.SUSPENDED and pair.rebuildable
    settled = arrived and usable
    served = pair.primary_at >= sequence
    return _Saved(pair.state, settled, usable, rebuildable, delayed, sorted(offsets), served)


def _piece(kind: int, offset: int, length: int, payload: memoryview) -> Piece:
    length = min(length, SAMPLE_BYTES)
    return Piece(offset, length, _checksum(payload[:length] if kind == WRITE else bytes(length)))
