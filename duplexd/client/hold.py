"""A hold over a group: every gate closed and drained, until it is suspended, released or lost."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Self

from duplexd.client import survey
from duplexd.client.coordinator import Drive
from duplexd.client.hooking import check_not_held
from duplexd.client.protocol import HELD
from duplexd.client.suspend import INTERRUPTED, check_tag, close, suspended
from duplexd.errors import LeaseLostError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from duplexd.client.member import Plan
    from duplexd.client.results import Suspended
    from duplexd.client.settle import Settling
    from duplexd.client.survey import Links
    from duplexd.json_object import Json


def hold_of(
    plan: Plan,
    links: Links,
    settling: Settling,
    on_suspended: Callable[[], object] | None,
) -> Hold:
    """A hold that is yet to be entered: only then are the controllers asked."""

    async def drive() -> Drive:
        with survey.nothing_suspended():
            if plan.alone:
                survey.raise_all(await survey.identify(links))
            else:
                statuses = await settling.calm(plan.group, links)
                survey.check_members(statuses)
                survey.check_duplex(statuses)
                await survey.measure(links, plan.hold_max_s, plan.cut_id)
        return Drive(plan, links)

    return Hold(drive, settling.settle_s, on_suspended)


class Hold:
    """`async with client.quiesce("db") as hold`: within the block all writes of the group wait.

    Reads are served, nothing fails. Leaving the block releases. If the hold is lost (its time is
    over, a member went away), the block is cancelled where it waits, and LeaseLostError is raised;
    nothing done under it counts. `on_suspended` is called if another command suspends under the
    lease of one controller: that ends the hold, too, but as it should end.
    """

    def __init__(
        self,
        make: Callable[[], Awaitable[Drive]],
        settle_s: float,
        on_suspended: Callable[[], object] | None = None,
    ) -> None:
        self._make = make
        self._settle_s = settle_s
        self._on_suspended = on_suspended
        self._drive: Drive | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0  # how often the task was cancelled by others
        self._cancelled = False  # by this hold, as it was lost
        self._over = False  # the caller has suspended or released it, or another suspended under it

    async def __aenter__(self) -> Self:
        self._drive = drive = await self._make()
        try:
            await close(drive)
        finally:
            if drive.round.phase != HELD:
                await drive.end()
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task else 0
        drive.on_over = self._ended
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        drive = self._held()
        lost = not self._over and drive.round.phase != HELD
        self._over = True
        ours = kind is not None and self._is_ours(kind)
        try:
            await self._end(drive)
        except LeaseLostError:  # lost, as it turns out now
            lost = True
        except asyncio.CancelledError as cancelled:
            # perhaps by this hold, which was lost as the block ended
            if ours or not self._is_ours(type(cancelled)):
                raise
        if lost and (kind is None or ours):
            raise drive.lost from error

    async def _end(self, drive: Drive) -> None:
        try:
            await drive.release()
        except asyncio.CancelledError:
            await drive.give_up(INTERRUPTED)
            raise
        finally:
            await drive.end()

    def _is_ours(self, kind: type[BaseException]) -> bool:
        """Whether the block was cancelled by this hold, and by nobody else."""
        if not self._cancelled or self._task is None:
            return False
        return (
            issubclass(kind, asyncio.CancelledError) and self._task.uncancel() <= self._cancelling
        )

    def _ended(self, lost: bool) -> None:
        if self._over or self._task is None:
            return
        if lost:
            self._cancelled = True
            self._task.cancel()
            return
        self._over = True
        if self._on_suspended is not None:
            self._on_suspended()

    def _held(self) -> Drive:
        if self._drive is None:
            raise WrongStateError("a hold is used with `async with`: nothing is held yet")
        return self._drive

    @property
    def cut(self) -> str:
        """The id of the cut that it is held for; of one controller, that of its lease."""
        return self._held().lease

    def json(self) -> Json:
        """The lease: of one controller with all that it says of it."""
        drive = self._held()
        cut, hold_s = drive.plan.cut_id, drive.plan.hold_max_s
        several = {"cut": cut, "hold_s": hold_s, "owner": "", "fence": None}
        named = {"id": drive.lease, "volumes": drive.volumes, "remaining_s": self.remaining_s}
        return (drive.only.lease if drive.alone else several) | named

    @property
    def remaining_s(self) -> float:
        """Seconds until it ends by itself; 0 if it has ended."""
        drive = self._held()
        return max(0.0, drive.deadline - monotonic()) if drive.round.phase == HELD else 0.0

    @property
    def reason(self) -> str:
        """How it ended: `released`, `suspended`, or why it was lost."""
        drive = self._held()
        return drive.only.end_reason if drive.alone else str(drive.error or "released")

    @property
    def by_another(self) -> bool:
        """Whether somebody else released it, where that ends the whole of it: on one controller."""
        return self._held().by_another

    async def renew(self, seconds: float) -> None:
        """Let it last `seconds` from now, at most 10 s in all.

        Raises LeaseLostError if a member does not grant it: the hold is over then.
        """
        drive = self._held()
        drive.on_over = None  # the caller gets it as an error from here
        try:
            await drive.renew(seconds)
        finally:
            drive.on_over = self._ended

    async def suspend(self, tag: str = "") -> Suspended:
        """Cut at this point, open the gates, and decide.

        Raises LeaseLostError if it was lost before any member made its cut; UndecidedError;
        UsageError for a tag that is too long, or not text, or a group with hooks: the hold goes on.
        """
        check_tag(tag)
        drive = self._held()
        check_not_held(drive.plan)
        if drive.round.phase != HELD:
            raise drive.lost
        self._over = True  # from here on the outcome says what became of it
        result = await suspended(drive, tag, self._settle_s)
        if isinstance(drive.error, LeaseLostError) and drive.nothing_cut:
            raise drive.lost
        return result

    async def release(self) -> None:
        """Release it before the block ends. Raises LeaseLostError if it is lost already."""
        drive = self._held()
        if drive.round.phase != HELD:
            raise drive.lost
        self._over = True
        await drive.release()
