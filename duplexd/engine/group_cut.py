"""Cuts and marks that this controller takes together with others: two-phase commit, as participant.

No journal orders writes across controllers; the gates do: all are closed and drained, then all
controllers cut, then all gates open. What a participant may do in which state is the table
`core/cut_states.py`, and which commands it accepts is decided in `core/participant.py`. This file
executes them: each command is one step at rest, and an answer that a coordinator relies on is given
only once it is durable.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from duplexd.core import cut_states
from duplexd.core import lease as ends
from duplexd.core.cuttable import check_can_be_cut
from duplexd.core.markers import MakeCut, Mark
from duplexd.engine.marks import check_whole, refused_mark
from duplexd.engine.suspend import images, refused_cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.core.cut import Cut
    from duplexd.core.pair import Pair
    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.events import Events
    from duplexd.engine.leases import Hold, Leases
    from duplexd.engine.settling import Settling
    from duplexd.engine.suspend import Origin
    from duplexd.engine.timeline import Timeline
    from duplexd.json_object import Json
    from duplexd.runtime.clock import Clock


class GroupCuts:
    """What a coordinator asks for. Answers are `CutArchive.show`, with what a certificate needs."""

    def __init__(
        self,
        timeline: Timeline,
        leases: Leases,
        settling: Settling,
        archive: CutArchive,
        clock: Clock,
        events: Events,
        origin: Origin,
    ) -> None:
        self._timeline = timeline
        self._leases = leases
        self._settling = settling
        self._archive = archive
        self._clock = clock
        self._events = events
        self._origin = origin

    async def make(
        self,
        cut_id: str,
        lease_id: str,
        fence: int | None,
        tag: str,
        group: str,
        members: list[str],
    ) -> Json:
        """Cut all pairs of a lease that is held for this cut; or mark them, if it is held for a
        mark. The gates stay closed, and it is in doubt. Raises LeaseLostError and others.
        """

        def step() -> tuple[Json, list[str]]:
            hold = self._leases.participant.find(lease_id, fence)
            pairs = list(hold.pairs)
            numbers = [pair.id for pair in pairs]
            if hold.mark:
                check_whole(pairs)
                marker: MakeCut | Mark = Mark(cut_id, tag, numbers, group, members)
            else:
                check_can_be_cut(pairs)
                marker = MakeCut(cut_id, tag, numbers, group, members)
            try:
                self._leases.participant.cut(lease_id, fence, marker)
            except OSError as error:
                raise (refused_mark if hold.mark else refused_cut)(error) from error
            cut = self._archive.find(cut_id)
            self._archive.unsettled.add(cut_id)
            hold.cut_at = self._clock.monotonic()
            if hold.mark:
                return self._origin.certify(cut), []
            names = [pair.name for pair in pairs]
            self._archive.keep_figures(cut, None, names)
            self._archive.made += 1
            return self._origin.certify(cut), names

        result, names = await self._timeline.at_rest(step)
        if names:
            self._events.emit("cut", cut=cut_id, tag=tag, group=group, volumes=names)
        return result

    async def open(self, cut_id: str, lease_id: str, fence: int | None) -> Json:
        """Open the gates of a lease whose cut was made; then bring the secondaries there, and vote.

        Raises LeaseLostError and others.
        """
        cut = self._archive.find(cut_id)

        def gates() -> tuple[Hold, Json]:
            hold = self._leases.participant.may_open(cut_id, lease_id, fence)
            self._leases.end(hold, ends.BY_SUSPEND)
            figures = self._leases.figures(hold)
            if not hold.mark:  # there are many, and only the latest figures are kept
                self._archive.keep_figures(cut, figures, hold.volumes)
            return hold, figures

        hold, figures = await self._timeline.at_rest(gates)
        await self._settling.wait(cut)
        found = self._archive.show(cut) | {"hold": figures}
        return found if hold.mark else found | {"images": images(hold.pairs)}

    def certify(self, cut: Cut, pairs: Sequence[Pair]) -> Json:
        """What a certificate has of a cut that these pairs are at."""
        return self._origin.certify(cut) | {"volumes": images(pairs)}

    def hold_ended(self, hold: Hold) -> None:
        """The hold of a cut that was made is over: the secondaries are brought to the cut in any
        case, and the cut is void unless `open` ended the hold.
        """
        cut = self._timeline.ledger.cut(hold.cut_id)
        if cut is None:
            return
        self._settling.begin([] if hold.mark else list(hold.pairs), cut)

        def lost() -> None:
            # If the journal cannot be written, the controller has failed; a restart finds the
            # cut not prepared, and makes it void.
            with contextlib.suppress(OSError):
                self._timeline.must(lambda: self._leases.participant.lost(cut.id))
            self._archive.announce(cut)

        self._timeline.when_at_rest(lost)

    async def decide(self, cut_id: str, how: str) -> Json:
        """Commit or abort; `how` is one of `cut_states.ABORT`, AGREE, REFUSE. Returns once the
        answer is durable.
        """
        participant = self._leases.participant
        calls = {
            cut_states.ABORT: participant.abort,
            cut_states.AGREE: participant.agree,
            cut_states.REFUSE: participant.refuse,
        }

        def step() -> tuple[str, str]:
            if how != cut_states.AGREE:  # its hold serves no purpose now
                self._leases.release_cut(cut_id, ends.ABORTED)
            before = self._timeline.ledger.state_of(cut_id)
            return before, self._timeline.must(lambda: calls[how](cut_id))

        before, after = await self._timeline.at_rest(step)
        cut = self._archive.find(cut_id)
        await self._timeline.durable()
        if before not in {cut_states.NONE, after}:
            self._archive.announce(cut)
        return self._archive.show(cut)

    def release(self, cut_id: str) -> Json:
        """End the lease that is held for a cut that is not to be made, if there is one."""
        lease_id = self._leases.release_cut(cut_id, ends.BY_OWNER)
        return {"lease": lease_id or None, "released": bool(lease_id)}
