"""Restores: volumes are closed to all but the client that writes a backup to them.

    close    a marker, durable before the client may write. Clients that are connected keep the
             restore from it, or are disconnected; what they had in flight ends first
    write    over NBD, by a name that only `core/rollback_state.door` makes. They are changes like
             those of any client, so they have numbers, are tracked, and are mirrored by a resync
    open     a marker: all volumes of the restore are served again in one turn of the loop

What the backup holds is the client's affair: the daemon cannot read it, and may run elsewhere. What
it answers for is that nobody meets a volume half-way, and that the secondary stays what it was. So
it ends only by its client, by somebody who abandons it, or by a rollback in its place
(`rolling_back.py`, which has what is the same for both).

Considered and rejected: contents in requests of the control socket (a second way to write, with
limits of its own), and a client that writes to volumes which are open (another one may write, too).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from duplexd.core import rollback as steps
from duplexd.core.markers import Rollback, RolledBack
from duplexd.core.rollback import check_apart
from duplexd.engine.cut_archive import new_id
from duplexd.engine.rollback_job import clients_gone
from duplexd.engine.rolling_back import ended_by
from duplexd.errors import UsageError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.core.pair import Pair
    from duplexd.core.rollback import RestoreOrder
    from duplexd.engine.events import Events
    from duplexd.engine.rollback_check import RollbackCheck
    from duplexd.engine.timeline import Timeline
    from duplexd.json_object import Json

FORCED = "a restore takes the volume, with --force"


class Restores:
    """Of a controller."""

    def __init__(self, timeline: Timeline, check: RollbackCheck, events: Events) -> None:
        self._timeline = timeline
        self._check = check
        self._events = events

    async def restore(self, pairs: Sequence[Pair], order: RestoreOrder) -> Json:
        """A step of a restore of these pairs. One of them that is not finished goes on.

        Raises WrongStateError with nothing done; TimedOutError if clients that are disconnected do
        not go: the volumes are closed then.
        """
        if not pairs:
            raise UsageError("name at least one volume or group")
        if order.step == steps.OPEN:
            await self._open(pairs, order)
            return self._answer(order.id, order, pairs)
        unfinished = self._unfinished(pairs, order)
        if order.step == steps.CLOSE:
            unfinished = await self._close(pairs, order)
        return self._answer(unfinished or order.id, order, pairs)

    def _unfinished(self, pairs: Sequence[Pair], order: RestoreOrder) -> str:
        """The id of the restore that goes on; "" for a new one. Raises WrongStateError if clients,
        a lease, a rollback, or another restore are in the way.
        """
        for pair in pairs:
            begun = pair.record.rollback
            if begun is not None and begun.unfinished and begun.backup != order.backup:
                raise WrongStateError(f"{pair.name}: {begun.closed}")
            self._check.refuse_unavailable(pair)
        unfinished = self._check.unfinished(pairs)
        if not order.force:
            self._check.refuse_users(pairs)
        return unfinished

    # -------------------------------------------------------------------------------- its steps

    async def _close(self, pairs: Sequence[Pair], order: RestoreOrder) -> str:
        """Close the volumes, if they are not; durably. No client is connected then."""
        restore_id = await self._timeline.at_rest(partial(self._close_now, pairs, order))
        await clients_gone(pairs)
        await self._timeline.at_rest(_nothing)  # their last batch is over
        await self._timeline.durable()
        return restore_id

    def _close_now(self, pairs: Sequence[Pair], order: RestoreOrder) -> str:
        restore_id = self._unfinished(pairs, order)  # as it is by now
        for pair in pairs:
            check_apart(pair.record)
        if not restore_id:
            restore_id = order.id or new_id()
            numbers = [pair.id for pair in pairs]
            self._timeline.append(Rollback(restore_id, order.cut, numbers, order.backup))
            self._emit("restore-started", pairs, order, restore_id)
        for pair in pairs:
            for reader in list(pair.clients):
                reader.end_reading(FORCED)
        return restore_id

    async def _open(self, pairs: Sequence[Pair], order: RestoreOrder) -> None:
        """All at once. Durable when it returns. One that is open is no error."""
        if not all(ended_by(pair, order.id) for pair in pairs):
            await clients_gone(pairs)
        if await self._timeline.at_rest(partial(self._open_now, pairs, order)):
            self._emit("restored", pairs, order, order.id)
        await self._timeline.durable()

    def _open_now(self, pairs: Sequence[Pair], order: RestoreOrder) -> bool:
        """False if that was done before."""
        if all(ended_by(pair, order.id) for pair in pairs):
            return False
        if set(self._check.together(order.id)) != set(pairs):
            names = " ".join(pair.name for pair in pairs)
            raise WrongStateError(f"{names}: these are not what restore {order.id} restores")
        for pair in pairs:
            if why := pair.failed or ("a client writes to it" if pair.clients else ""):
                raise WrongStateError(f"{pair.name}: {why}; the restore is not finished")
        self._timeline.append(RolledBack(order.id, [pair.id for pair in pairs], whole=True))
        return True

    def _answer(self, restore_id: str, order: RestoreOrder, pairs: Sequence[Pair]) -> Json:
        rows = [
            {
                "name": pair.name,
                "served": not (pair.failed or pair.closed),
                "undo": self._check.way_back(pair),
            }
            for pair in pairs
        ]
        return {"id": restore_id, "backup": order.backup, "volumes": rows}

    def _emit(
        self, event: str, pairs: Sequence[Pair], order: RestoreOrder, restore_id: str
    ) -> None:
        names = [pair.name for pair in pairs]
        self._events.emit(
            event, volumes=names, backup=order.backup, cut=order.cut, restore=restore_id
        )


def _nothing() -> None:
    """Only to be between two batches."""
