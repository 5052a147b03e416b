"""A hold over a group: every gate closed and drained, until it is suspended, released or lost."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Self

from duplexd.client import outcomes
from duplexd.client.protocol import HELD
from duplexd.client.results import Suspended, merge_holds
from duplexd.core.cut_states import VOID
from duplexd.errors import LeaseLostError, UndecidedError, UsageError, WrongStateError
from duplexd.limits import TAG_CHARACTERS_MAX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from duplexd.client.coordinator import Drive

    OnCut = Callable[[Suspended | UndecidedError], object]

_INTERRUPTED = "the command was interrupted"


def check_tag(tag: str) -> str:
    """A text that every controller takes with a cut. To be asked before anything is held: a cut that is refused is void. Raises UsageError."""
    if len(tag) > TAG_CHARACTERS_MAX:
        raise UsageError(
            f"a tag of {len(tag)} characters is too long; write at most {TAG_CHARACTERS_MAX} (TAG_CHARACTERS_MAX)"
        )
    if any("\ud800" <= character <= "\udfff" for character in tag):
        raise UsageError("the tag is not UTF-8 text; write it in UTF-8")
    return tag


async def close(drive: Drive) -> None:
    """Close all gates. A cancelled one leaves none closed."""
    try:
        await drive.close()
    except asyncio.CancelledError:
        await drive.give_up(_INTERRUPTED)
        raise


async def suspended(
    drive: Drive, tag: str, settle_s: float, on_cut: OnCut | None = None
) -> Suspended:
    """Cut what `drive` holds. Raises UndecidedError if the outcome can't be known because a member does not answer.

    `on_cut` is called before anything else is awaited. A cancelled one opens the gates, and tells `on_cut` what became of the cut, if there is one.
    """
    try:
        await drive.cut(tag)
        await drive.finish(settle_s)
    except asyncio.CancelledError:
        try:
            await drive.give_up(_INTERRUPTED)
        finally:
            if on_cut is not None and not drive.nothing_cut:
                on_cut(_outcome(drive))
        raise
    found = _result(drive)
    if on_cut is not None:
        on_cut(found)
    return found


def _outcome(drive: Drive) -> Suspended | UndecidedError:
    try:
        return _result(drive)
    except UndecidedError as error:
        return error


def _result(drive: Drive) -> Suspended:
    verdict = drive.round.outcome
    if verdict is None:
        raise outcomes.undecided_error(drive.cut_id, drive.round.unreached, drive.group.name)
    left = drive.left if verdict != VOID else []
    made = {name: drive.made[name] for name in drive.group.members if name in drive.made}
    return Suspended(
        verdict=verdict,
        cut=drive.cut_id,
        tag=drive.tag,
        group=drive.group.name,
        controllers={name: each["sequence"] for name, each in made.items()},
        volumes=drive.volumes,
        hold=merge_holds(drive.holds, drive.hold_max_s),
        phases=dict(drive.seconds),
        why=_why(drive, verdict, left),
        left=left,
        untold=drive.round.untold,
        members=list(made.values()),
    )


def _why(drive: Drive, verdict: str, left: list[str]) -> str:
    if verdict == VOID:
        return (
            str(drive.error)
            if drive.error
            else "a member found its secondaries not to stand at the cut"
        )
    return (
        f"{' '.join(left)} stood at the cut, and left it before the suspend was done: somebody resynced"
        if left
        else ""
    )


class Hold:
    """`async with client.quiesce("db") as hold`: within the block all writes of the group wait; reads are served, nothing fails.

    Leaving the block releases. If the hold is lost (its time is over, a member went away), the block is cancelled where it waits, and
    LeaseLostError is raised; nothing done under it counts.
    """

    def __init__(self, make: Callable[[], Awaitable[Drive]], settle_s: float) -> None:
        self._make = make
        self._settle_s = settle_s
        self._drive: Drive | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0  # how often the task was cancelled by others
        self._cancelled = False  # by this hold, as it was lost
        self._over = False  # the caller has suspended or released it

    async def __aenter__(self) -> Self:
        self._drive = drive = await self._make()
        try:
            await close(drive)
        finally:
            if drive.round.phase != HELD:
                await drive.end()
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task else 0
        drive.on_lost = self._lost
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
            await self._let_go(drive)
        except LeaseLostError:  # lost, as it turns out now
            lost = True
        except (
            asyncio.CancelledError
        ) as cancelled:  # perhaps by this hold, which was lost as the block ended
            if ours or not self._is_ours(type(cancelled)):
                raise
        if lost and (kind is None or ours):
            raise drive.lost from error

    async def _let_go(self, drive: Drive) -> None:
        try:
            await drive.release()
        except asyncio.CancelledError:
            await drive.give_up(_INTERRUPTED)
            raise
        finally:
            await drive.end()

    def _is_ours(self, kind: type[BaseException]) -> bool:
        """Whether the block was cancelled by this hold, and by nobody else."""
        if (
            not self._cancelled
            or self._task is None
            or not issubclass(kind, asyncio.CancelledError)
        ):
            return False
        return self._task.uncancel() <= self._cancelling

    def _lost(self) -> None:
        if self._task is not None and not self._over:
            self._cancelled = True
            self._task.cancel()

    def _held(self) -> Drive:
        if self._drive is None:
            raise WrongStateError("a hold is used with `async with`: nothing is held yet")
        return self._drive

    @property
    def cut(self) -> str:
        """The id of the cut that it is held for."""
        return self._held().cut_id

    @property
    def remaining_s(self) -> float:
        """Seconds until it ends by itself; 0 if it has ended."""
        drive = self._held()
        return max(0.0, drive.deadline - monotonic()) if drive.round.phase == HELD else 0.0

    async def renew(self, seconds: float) -> None:
        """Let it last `seconds` from now, at most 10 s in all. Raises LeaseLostError if a member does not grant it: the hold is over then."""
        drive = self._held()
        drive.on_lost = None  # the caller hears of it from here
        try:
            await drive.renew(seconds)
        finally:
            drive.on_lost = self._lost

    async def suspend(self, tag: str = "") -> Suspended:
        """Cut at this point, open the gates, and decide. Raises LeaseLostError if it was lost before any member made its cut, UndecidedError.

        UsageError for a tag that is too long, or no text: the hold goes on.
        """
        check_tag(tag)
        drive = self._held()
        if drive.round.phase != HELD:
            raise drive.lost
        self._over = True  # from here on the outcome tells what became of it
        result = await suspended(drive, tag, self._settle_s)
        if isinstance(drive.error, LeaseLostError) and drive.nothing_cut:
            raise drive.lost
        return result

    async def release(self) -> None:
        """Let go before the block ends. Raises LeaseLostError if it is lost already."""
        drive = self._held()
        if drive.round.phase != HELD:
            raise drive.lost
        self._over = True
        await drive.release()
