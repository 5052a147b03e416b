"""What a start would find out about the images of a volume, and what it would do then.

The judgement is the one of the start itself (`core/identity.py`), of images that are opened for
reading only: by their marks, their times, and the blocks that the checkpoint sampled. What follows
is what `degraded.py` does; it is said as a sentence here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import pair_states
from duplexd.core.identity import Facts, Side, doubted, judge, judge_pair
from duplexd.engine.opening import PRIMARY, SECONDARY, may_have, places
from duplexd.engine.recovery import left_behind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.config.daemon_file import VolumeConfig
    from duplexd.core.identity import Judgement, Known
    from duplexd.core.pair import PairRecord
    from duplexd.core.since import Since
    from duplexd.engine.opening import Place
    from duplexd.images.probe import Found, Piece

    # An image by its path, the offsets of samples and the last change; None: nothing to look at
    Look = Callable[[str, Sequence[int], Piece | None], Found | None]

_ADOPT = "put its image back, or see `duplexctl adopt`"


class Judged(NamedTuple):
    """`faults`: each with what a start would do about it. `exchanged`: images that lie at each
    other's path, which costs nothing.
    """

    faults: list[str]
    exchanged: list[str]


class Judge(NamedTuple):
    """`may_swap`: the configuration lets a current secondary replace a failed primary."""

    known: Known
    since: Since
    complete: bool
    look: Look
    may_swap: bool

    def of(self, name: str, volume: VolumeConfig, record: PairRecord | None) -> Judged:
        """What a start would find out about the images of a volume."""
        at, other = places(volume, record is not None and record.swapped)
        looked = self._found(volume, record, at, other)
        found, faults = _of_its_size(name, volume, record, (at, other), looked)
        ours, theirs = self._judged(volume, record, found)
        if ours is not None and ours.kind == "exchanged":
            why = ours.why.removeprefix(f"{name}: ")
            return Judged(faults, [f"volumes.{name}: {why}: they would change roles"])
        good = theirs is not None and theirs.current and theirs.proven
        if ours is not None and not ours.current:
            leads = good and record is not None and self._may_lead(record)
            does = f"the volume would not be served; {_ADOPT}"
            if other is not None and leads:
                does = f"clients would use {other.path} instead"
            faults.append(f"volumes.{name}.{at.key}: {ours.why}; {does}")
        if other is not None and theirs is not None and not theirs.current:
            faults.append(f"volumes.{name}.{other.key}: {theirs.why}; {_of_secondary(record)}")
        return Judged(faults, [])

    def _found(
        self, volume: VolumeConfig, record: PairRecord | None, at: Place, other: Place | None
    ) -> tuple[Found | None, Found | None]:
        offsets: set[int] = set()
        last = None
        if record is not None:
            # where either was sampled: they may lie at each other's path
            images = (record.primary_image, record.secondary_image)
            offsets = {offset for image in images if image is not None for offset in image.offsets}
            last = self._facts(volume, record)[0].last
        found = [
            self.look(place.path, sorted(offsets), last) if place is not None else None
            for place in (at, other)
        ]
        return found[0], found[1]

    def _judged(
        self,
        volume: VolumeConfig,
        record: PairRecord | None,
        found: tuple[Found | None, Found | None],
    ) -> tuple[Judgement | None, Judgement | None]:
        ours, theirs = found
        if record is None:
            new = [each and judge(self.known, None, each, Facts()) for each in found]
            return new[0], new[1]
        of_ours, of_theirs = self._facts(volume, record)
        judged = judge_pair(
            record.name,
            self.known,
            Side(record.primary_image, ours, of_ours),
            Side(record.secondary_image, theirs, of_theirs),
        )
        if theirs is None or judged[1] is None:
            return judged
        return judged[0], doubted(judged[1], record, theirs, of_theirs)

    def _facts(self, volume: VolumeConfig, record: PairRecord) -> tuple[Facts, Facts]:
        mirrors = left_behind.mode(record, volume.mode) == "sync"
        return self.since.facts(record, self.complete, mirrors)

    def _may_lead(self, record: PairRecord) -> bool:
        """Whether its secondary, which is what it should be, takes the place of the primary. One
        that no checkpoint has recorded may be any image; a delayed one lacks changes.
        """
        known = record.secondary_image is not None and record.differs is None
        known = known and record.horizon is None
        return self.may_swap and known and record.state == pair_states.DUPLEX


def _of_its_size(
    name: str,
    volume: VolumeConfig,
    record: PairRecord | None,
    at: tuple[Place, Place | None],
    looked: tuple[Found | None, Found | None],
) -> tuple[tuple[Found | None, Found | None], list[str]]:
    """Those that a start opens, and what to say of others: an image may be as long as its volume
    is, as it is to become, or was to; a device that the journal knows may have been enlarged.
    """
    least = volume.size if record is None else record.size
    kept: list[Found | None] = []
    faults: list[str] = []
    of_primary = record is not None
    of_secondary = record is not None and record.state != pair_states.SIMPLEX
    roles = (PRIMARY, of_primary), (SECONDARY, of_secondary)
    for place, found, (role, known) in zip(at, looked, roles, strict=True):
        longer = found is not None and found.size > may_have(volume, record, role)
        enlarged = longer and found is not None and found.is_device
        fits = found is not None and least <= found.size and (not longer or (enlarged and known))
        kept.append(found if fits else None)
        if place is None or found is None:
            continue
        why = f"{found.path}: the image has {found.size} bytes, and the volume {least}"
        if found.size < least:
            faults.append(f"volumes.{name}.{place.key}: {why}; {_ADOPT}")
        elif not fits:
            kind = "device" if found.is_device else "image"
            faults.append(f"volumes.{name}.{place.key}: {why}; give the size of the {kind}")
    return (kept[0], kept[1]), faults


def _of_secondary(record: PairRecord | None) -> str:
    if record is None or record.state == pair_states.SIMPLEX:
        return "the pair would be suspended until a resync copies to it"
    if record.state == pair_states.SUSPENDED:
        return "its cut would be lost: a resync copies all of it"
    return "the pair would be SUSPENDED; a resync copies all of it"
