"""Suspending pairs of this controller alone: one marker, in one step, with no hold.

The journal orders all writes of a controller, so a cut of any number of its volumes is the position
of one record: writes before it reach the secondaries, later ones do not. A lease is only needed
where the caller wants the application's writes to wait around the cut, or where several controllers
cut together (`group_cut.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import lease as ends
from duplexd.core import pair_states
from duplexd.core.cut_states import CONSISTENT, VOID
from duplexd.core.cuttable import Standing, check_can_be_cut, check_equal, check_standing
from duplexd.core.markers import MakeCut
from duplexd.engine.cut_archive import new_id
from duplexd.engine.opening import why_absent
from duplexd.engine.settling import reached
from duplexd.errors import DuplexdError, UsageError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from duplexd.core.cut import Cut
    from duplexd.core.pair import Pair
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.cut_readers import CutReaders
    from duplexd.engine.leases import Hold, Leases
    from duplexd.engine.settling import Settling
    from duplexd.engine.timeline import Timeline
    from duplexd.json_object import Json
    from duplexd.runtime.clock import Clock


class Origin(NamedTuple):
    """The controller in a certificate: its name, state directory and the journal's identity."""

    name: str
    state_dir: str
    journal: bytes

    def certify(self, cut: Cut) -> Json:
        """A cut of this controller in a certificate, without its images, which are looked up after
        the hold: writes may be waiting now.
        """
        return {
            "cut": cut.id,
            "controller": self.name,
            "sequence": cut.sequence,
            "time": cut.time_us / 1e6,
            "journal": {
                "directory": self.state_dir,
                "identity": self.journal.hex(),
                "crc": cut.crc,
                "chain": cut.chain,
            },
        }


class Made(NamedTuple):
    """What the step at rest found or made."""

    cut: Cut
    already: bool  # the pairs were suspended at it before
    hold: Hold | None = None
    pause_s: float = 0.0


class Suspends:
    """Suspends of this controller alone."""

    def __init__(
        self,
        timeline: Timeline,
        leases: Leases,
        settling: Settling,
        archive: CutArchive,
        clock: Clock,
        origin: Origin,
        readers: CutReaders,
    ) -> None:
        self._readers = readers
        self._timeline = timeline
        self._leases = leases
        self._settling = settling
        self._archive = archive
        self._clock = clock
        self._origin = origin

    async def suspend(
        self,
        pairs: Sequence[Pair],
        tag: str,
        lease_id: str | None,
        fence: int | None = None,
        certificate: bool = False,
        existing: bool = False,
        reader: str = "",
        on_cut: Callable[[str], object] | None = None,
    ) -> Json:
        """Suspend DUPLEX pairs at one number. Returns when the secondaries are durable there.

        With a lease, its hold ends in the same step. Raises WrongStateError, with nothing done, if
        not all pairs can be cut together, or if they are at one cut already and not `existing`;
        LeaseLostError if the hold has ended. A cut that turns out not to be consistent is recorded
        as void. With `certificate` the result holds what
        proves the cut. A `reader` reads the secondaries from that step on, unless the cut is void.
        `on_cut` is called with the id of a cut that is made, before it is settled.
        """
        cut = self._timeline.at_rest(
            lambda: self._step(pairs, tag, lease_id, fence, existing, reader)
        )
        return await self.settled(pairs, cut, certificate, reader, on_cut)

    async def settled(
        self,
        pairs: Sequence[Pair],
        work: Awaitable[Made],
        certificate: bool,
        reader: str,
        on_cut: Callable[[str], object] | None,
    ) -> Json:
        """The result of a suspend, once the cut that `work` makes is settled."""
        self._archive.made += 1
        began = self._clock.monotonic()
        step = await work
        cut, already = step.cut, step.already
        if on_cut is not None and not already:
            on_cut(cut.id)
        try:
            await self._settled(pairs, cut, already)
        except (DuplexdError, OSError):
            if reader:
                await self._kept(pairs, reader, good=False)
            raise
        hold = self._leases.figures(step.hold, step.pause_s)
        good = cut.verdict == CONSISTENT
        if reader:
            reader = await self._kept(pairs, reader, good)
        names = [pair.name for pair in pairs]
        result: Json = {
            "verdict": CONSISTENT if good else VOID,
            "cut": cut.id,
            "tag": cut.tag,
            "mark": cut.mark or None,
            "already": already,
            "controllers": {self._origin.name: cut.sequence},
            "volumes": names,
            "time": cut.time_us / 1e6,
            "hold": hold,
            "seconds": self._clock.monotonic() - began,
            "why": None if good else cut.why or None,
            "reader": reader or None,
        }
        if certificate:
            result["members"] = [self._origin.certify(cut) | {"volumes": images(pairs)}]
        if not already:
            self._archive.keep_figures(cut, hold, names)
            self._archive.announce_suspended(cut, names, result["verdict"])
        return result

    async def _settled(self, pairs: Sequence[Pair], cut: Cut, already: bool) -> None:
        """Raises WrongStateError if one of them has left a cut that it was at already."""
        await self._settling.wait(cut)
        if already and cut.verdict == CONSISTENT:
            await self._settling.look(pairs)
            check_still_there(pairs, cut)

    async def _kept(self, pairs: Sequence[Pair], reader: str, good: bool) -> str:
        """A reader of a cut that is not good would only be in the way of the next suspend."""
        reading = [pair for pair in pairs if reader in pair.record.readers]
        if not good and reading:
            await self._readers.release(reading, reader)
        await self._timeline.durable()
        return reader if good and len(reading) == len(pairs) else ""

    def _step(
        self,
        pairs: Sequence[Pair],
        tag: str,
        lease_id: str | None,
        fence: int | None,
        existing: bool,
        reader: str,
    ) -> Made:
        if reader:
            self._readers.check_new(pairs, reader)
        began = self._clock.monotonic()
        hold = self._find_lease(lease_id, fence, pairs) if lease_id is not None else None
        if not pairs:
            raise UsageError("name at least one volume or group")
        cut = common_cut(pairs)
        already = cut is not None
        if cut is not None:
            self._check_common(pairs, cut, existing)
        else:
            cut = self._cut(pairs, tag, hold is not None)
            if hold is not None:
                hold.cut_at = self._clock.monotonic()
        if reader:
            begin_reading(self._readers, pairs, cut, reader)
        if hold is not None:
            self._leases.end(hold, ends.BY_SUSPEND)
        return Made(cut, already, hold, 0.0 if already else self._clock.monotonic() - began)

    def _check_common(self, pairs: Sequence[Pair], cut: Cut, existing: bool) -> None:
        refuse_in_doubt(cut)
        age_s = self._clock.wall() - cut.time_us / 1e6
        reasons = frozenset(pair.reason for pair in pairs)
        check_standing(Standing(cut.id, cut.tag, age_s, reasons), existing)
        check_equal(pairs)

    def _cut(self, pairs: Sequence[Pair], tag: str, held: bool) -> Cut:
        participant = self._leases.participant
        if len(participant.leases) > held:  # another one than that of this suspend
            participant.refuse_overlap(pairs)
        marker = MakeCut(new_id(), tag, [pair.id for pair in pairs])
        try:
            self._timeline.append(marker)
        except WrongStateError:
            check_can_be_cut(pairs)  # its message names all pairs in the way, and what to do
            raise
        except OSError as error:
            raise refused_cut(error) from error
        cut = pairs[0].record.cut
        if cut is None:
            raise RuntimeError("the marker of a cut was folded, and a pair has none")
        self._settling.begin(pairs, cut)
        return cut

    def _find_lease(self, lease_id: str, fence: int | None, pairs: Sequence[Pair]) -> Hold:
        hold = self._leases.participant.find(lease_id, fence)
        if hold.cut_id:
            raise UsageError(
                f"lease {lease_id} is held for cut {hold.cut_id} of a group of controllers; "
                "only its coordinator can cut"
            )
        outside = [pair.name for pair in pairs if pair not in hold.pairs]
        if outside:
            raise UsageError(
                f"lease {lease_id} does not hold {', '.join(outside)}; "
                "quiesce all volumes that are to be suspended"
            )
        return hold


def common_cut(pairs: Sequence[Pair]) -> Cut | None:
    """The cut that all these pairs are suspended at."""
    records = [pair.record for pair in pairs]
    first = records[0].cut
    suspended = all(pair.state == pair_states.SUSPENDED and pair.cut is first for pair in records)
    return first if suspended else None


def refuse_in_doubt(cut: Cut) -> None:
    """Raises WrongStateError for a cut of several controllers that they have not decided."""
    if cut.members and cut.verdict is None:
        raise WrongStateError(
            f"the pairs are suspended at cut {cut.id} of group {cut.group}, which is in doubt: "
            f"its controllers have not decided it; `duplexctl settle {cut.group}` resolves it"
        )


def check_still_there(pairs: Sequence[Pair], cut: Cut) -> None:
    """Raises WrongStateError if one has left the cut, or its secondary cannot be read. The verdict
    is about those that are at it.
    """
    left = [pair for pair in pairs if not reached([pair], cut)]
    if left:
        names = ", ".join(pair.name for pair in left)
        why = left[0].cut.why if left[0].cut is not None else ""
        raise WrongStateError(
            f"not at cut {cut.id} any more: {names}" + (f" ({why})" if why else "") + "; "
            "duplexctl status shows the state; resync, then suspend again"
        )
    refuse_gone(pairs, cut)


def refuse_gone(pairs: Sequence[Pair], cut: Cut) -> None:
    """Raises WrongStateError if a secondary at the cut is not there: it came to it in an earlier
    run, and nobody can read it.
    """
    gone = list(filter(None, (why_absent(pair.secondary) for pair in pairs)))
    if gone:
        raise WrongStateError(
            f"cut {cut.id} cannot be read: {'; '.join(gone[:5])}; put the image back and restart"
            " the daemon, or resync, then suspend again"
        )


def begin_reading(readers: CutReaders, pairs: Sequence[Pair], cut: Cut, reader: str) -> None:
    """Record who reads a cut, in the step that makes it."""
    try:
        readers.begin(pairs, reader)
    except OSError as error:
        raise WrongStateError(
            f"the pairs are at cut {cut.id}, but {reader!r} could not be recorded in the journal: "
            f"{error.strerror or error}"
        ) from error


def refused_cut(error: OSError) -> WrongStateError:
    """The error for a cut whose marker could not be written."""
    why = error.strerror or error
    return WrongStateError(
        f"the cut could not be written to the journal: {why}; nothing was suspended"
    )


def images(pairs: Sequence[Pair]) -> list[Json]:
    """Where the images of a cut are, for its certificate."""
    return [
        {
            "id": pair.id,
            "name": pair.name,
            "size": pair.size if pair.cut is None else pair.record.size_at(pair.cut.sequence),
            "primary": pair.primary.path,
            "secondary": pair.record.secondary_path,
            "drill": _drill_of(pair),
        }
        for pair in pairs
    ]


def _drill_of(pair: Pair) -> Json | None:
    """The last drill of a pair, if it was of the cut that the pair is at."""
    drill = pair.record.drill
    return drill.show() if drill is not None and pair.cut and pair.cut.id == drill.cut else None
