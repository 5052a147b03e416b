"""The cuts of a controller, as the API asks for them: shown, graded, read.

A cut is a backup source only while its secondaries are at it. So a read names the cut that it
wants, and that is checked before and after the read: bytes that a resync has overwritten meanwhile
are never returned as content of the cut. A grade is what a canary found on the secondaries; a bad
grade makes the cut void, durably, before it is answered, so that no restart calls the cut
consistent again.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from duplexd.core import cut_states, pair_states
from duplexd.core.markers import Grade, Void
from duplexd.core.patience import SECONDARY
from duplexd.core.point import is_at_cut
from duplexd.errors import DuplexdError, UsageError, WrongStateError
from duplexd.images.unreadable import UnreadableError, read
from duplexd.runtime.tasks import to_its_end
from duplexd.runtime.watch import HungError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.engine.cut_archive import CutArchive
    from duplexd.engine.events import Events
    from duplexd.engine.group_cut import GroupCuts
    from duplexd.engine.timeline import Timeline
    from duplexd.engine.volumes import Volumes
    from duplexd.json_object import Json
    from duplexd.replication.leg_calls import LegCalls


class Cuts:
    """What can be asked of cuts; those that are taken with other controllers are `group`'s."""

    def __init__(
        self,
        group: GroupCuts,
        timeline: Timeline,
        archive: CutArchive,
        volumes: Volumes,
        legs: LegCalls,
        events: Events,
    ) -> None:
        self.make = group.make
        self.open = group.open
        self.decide = group.decide
        self.release = group.release
        self._certify = group.certify
        self._timeline = timeline
        self._archive = archive
        self._volumes = volumes
        self._legs = legs
        self._events = events

    def show(self, cut_id: str) -> Json:
        """One cut, with what a certificate has of it while secondaries are at it. Raises
        NotFoundError.
        """
        cut = self._archive.find(cut_id)
        pairs = [pair for pair in self._volumes.all() if is_at_cut(pair, cut)]
        return self._archive.show(cut) | {"proof": self._certify(cut, pairs) if pairs else None}

    def all(self, names: Sequence[str] = ()) -> Json:
        """All that are remembered, oldest first; with `names`, those of any of these volumes."""
        return {"cuts": self._archive.remembered(names)}

    async def grade(self, cut_id: str, consistent: bool, records: int, detail: str) -> Json:
        """Record what a canary found on the secondaries of a cut; a broken cut is void."""
        timeline, cut = self._timeline, self._archive.find(cut_id)
        if self._archive.is_mark(cut):
            raise WrongStateError(
                f"{cut_id} is a mark, and no secondary is at it: suspend there, and grade that cut"
            )

        def marks() -> None:
            timeline.append(Grade(cut_id, consistent, records, detail))
            if not consistent and cut.state != cut_states.VOID:
                timeline.append(Void(cut_id))

        await timeline.at_rest(lambda: timeline.must(marks))
        await timeline.durable()
        self._events.emit(
            "graded",
            cut=cut_id,
            consistent=consistent,
            records=records,
            detail=detail,
            verdict=cut.verdict,
        )
        return self._archive.show(cut)

    async def read(self, cut_id: str, name: str, offset: int, length: int) -> bytes:
        """Bytes of a secondary that is at this cut, durably, before and after the read.

        Raises WrongStateError if it is not, UsageError for a range outside of the volume,
        DuplexdError if the secondary cannot be read.
        """
        cut, pair = self._archive.find(cut_id), self._volumes.by_name[name]
        size = pair.record.size_at(cut.sequence)

        def at_cut() -> bool:
            suspended = pair.cut is cut and pair.state == pair_states.SUSPENDED and pair.usable
            return suspended and cut_id not in self._archive.unsettled

        if offset < 0 or length <= 0 or offset + length > size:
            raise UsageError(
                f"{pair.name}: offset {offset}, length {length} is outside of the volume's "
                f"{size} bytes"
            )
        data, unreadable = bytearray(), None
        if at_cut():
            leg = pair.copy_of
            try:
                call = partial(read, leg, offset, length)
                data = await to_its_end(self._legs.on(pair, leg, SECONDARY, call))
            except (UnreadableError, HungError) as error:
                unreadable = error
        if not at_cut():  # also if a reload has closed the image meanwhile
            raise WrongStateError(
                f"the secondary of {pair.name} is not at cut {cut_id}, or not durable there yet; "
                "duplexctl status shows where it is"
            )
        if unreadable is not None:
            why = str(unreadable.strerror)
            path = f"{unreadable.filename}: " if isinstance(unreadable, HungError) else ""
            raise DuplexdError(path + why) from unreadable
        return bytes(data)
