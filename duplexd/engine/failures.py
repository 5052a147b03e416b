"""Storage that fails: what it does to states, so that no client sees more of it than it must."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from duplexd.backend import WRITE, ZERO, Change
from duplexd.core import state
from duplexd.core.ledger import pack_map
from duplexd.engine import status as overview
from duplexd.engine.apply import Batch, perform
from duplexd.limits import RECORD_BYTES_MAX

if TYPE_CHECKING:
    from duplexd.core.pair import Pair
    from duplexd.engine.apply import SecondaryFailure
    from duplexd.engine.controller import Controller


class _Nobody:
    """The client of changes that the controller makes itself."""

    def finished(self, change: Change) -> None:
        """Nobody waits."""

    def flush_replies(self) -> None:
        """Nothing to send."""


_NOBODY = _Nobody()


class Trouble:
    """A controller's way with failing legs and a failing journal. All within steps."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def after(self, batch: Batch) -> None:
        """Draw the consequences of what failed in a batch. Raises OSError if the journal does not take them."""
        for failure in batch.failures:
            self._secondary_failed(batch, failure)
        if batch.primary_errors:
            self._compensate(batch)

    def group_of(self, pair: Pair) -> set[Pair]:
        """The pair and all that share a group with it, as far as they are DUPLEX."""
        names = {name for group in pair.groups for name in self._controller.groups.get(group, [])}
        members = {self._controller.pairs[name] for name in names if name in self._controller.pairs}
        return {pair} | {member for member in members if member.state == state.DUPLEX}

    def _secondary_failed(self, batch: Batch, failure: SecondaryFailure) -> None:
        pair, sequence = failure.pair, failure.sequence
        members = self.group_of(pair)
        missed = {
            member: overview.changes_after(member, batch.changes, sequence - 1)
            for member in members
        }
        if failure.lost:
            missed[pair].set_all()
        self.freeze(
            members, pair, sequence - 1, failure.error, {pair} if failure.torn else set(), missed
        )

    def freeze(
        self,
        members: set[Pair],
        failed: Pair,
        at: int,
        error: OSError,
        unusable: set[Pair],
        missed: dict[Pair, Any],
    ) -> None:
        """Suspend pairs because a secondary failed, all at number `at`; `missed` is what each missed since. Within a step only.

        A follower may bring together pairs that came from different cuts: those that stand further already stay where they are.
        """
        ahead: dict[int, set[Pair]] = {}
        for member in members:
            if member.mirrors:
                member.applied = at
            elif member.usable and member not in unusable and member.applied > at:
                ahead.setdefault(member.applied, set()).add(member)
        self._freeze_at(members.difference(*ahead.values()), failed, at, error, unusable, missed)
        for further, standing in ahead.items():
            self._freeze_at(standing, failed, further, error, set(), missed)

    def _freeze_at(
        self,
        members: set[Pair],
        failed: Pair,
        at: int,
        error: OSError,
        unusable: set[Pair],
        missed: dict[Pair, Any],
    ) -> None:
        cut_id = self._controller.cuts.new_id()
        marker = {
            "m": "fail", "id": cut_id, "at": at, "volumes": sorted(member.id for member in members), "failed": [failed.id],
            "unusable": sorted(member.id for member in unusable), "error": _told(error, failed),
            "missed": {str(member.id): pack_map(changed) for member, changed in missed.items() if member in members and changed.any()},
        }  # fmt: skip
        left = {
            member.cut
            for member in members
            if member.cut is not None and member.cut.members and member.state == state.SUSPENDED
        }
        try:
            self._controller.mark(marker)
        except (
            OSError
        ) as refused:  # a secondary that may not go on, and can't be said to stand still
            self.journal_refused(refused, final=True)
            raise
        self._controller.emit(
            "suspended", volumes=[member.name for member in members], reason=state.BY_ERROR, cut=cut_id, failed=failed.name,
            error=error.strerror or str(error), path=getattr(failed.secondary, "path", ""), at=at,
        )  # fmt: skip
        for cut in left:  # they are void now, whatever was told of them
            self._controller.cuts.tell_verdict(cut)

    def _compensate(self, batch: Batch) -> None:
        """A primary did not take a change that is in the journal: journal what the primary holds now, so that both agree."""
        for change, error in batch.primary_errors:
            pair: Any = change.volume
            self._controller.emit(
                "primary-error",
                volume=pair.name,
                error=error.strerror or str(error),
                path=pair.primary.path,
            )
            for offset in range(change.offset, change.offset + change.length, RECORD_BYTES_MAX):
                length = min(RECORD_BYTES_MAX, change.offset + change.length - offset)
                data = bytearray(length)
                try:
                    pair.primary.read_into(offset, memoryview(data))
                except OSError as unreadable:
                    self._controller.fail(
                        f"{pair.primary.path}: neither takes a change nor can be read: {unreadable.strerror}"
                    )
                    return
                zeroes = (
                    data.count(0) == length
                )  # as in a hole that could not be filled: the journal may have no room for as many
                self._redo(
                    Change(
                        _NOBODY,
                        0,
                        pair,
                        ZERO if zeroes else WRITE,
                        offset,
                        length,
                        b"" if zeroes else data,
                    )
                )

    def _redo(self, change: Change) -> None:
        pair: Any = change.volume
        again = Batch([change], {}, int(self._controller.clock.wall() * 1e6))
        perform(again, self._controller.writer, self.group_of)
        if pair.tracks:
            self._controller.ledger.track(pair, change.kind, change.offset, change.length)
        for failure in again.failures:
            self._secondary_failed(again, failure)
        # If the primary refuses its own content too, it holds it all the same: nothing is lost by it.

    def journal_refused(self, error: OSError, final: bool = False) -> None:
        """The journal did not take something. `final`: what it did not take can't be done without."""
        if error.errno == errno.ENOSPC and not final:
            self._controller.maintenance.no_space(error)
        else:
            self._controller.fail(f"the journal could not be written: {error.strerror or error}")


def _told(error: OSError, failed: Pair) -> str:
    """What failed, with where: an error has its path or not, as whoever raised it."""
    why, path = error.strerror or str(error), getattr(failed.secondary, "path", "")
    return why if path in why else f"{path}: {why}"
