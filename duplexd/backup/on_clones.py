"""`duplexctl drill TARGET -- CMD`: is the cut any good? The application's own recovery says so.

CMD gets writable clones of all volumes at one cut, starts the application on them and checks what
it finds. It has in its environment:

    DUPLEXD_CUT    the id of the cut
    DUPLEXD_TAG    its tag
    DUPLEXD_URIS   a line for each volume: its name, a blank, the NBD URI of its clone

The clones belong to the connections of this process. So they end with it, also if it is killed.
When CMD has ended, the daemons record its outcome, as long as the clones are there: a drill that is
killed, or whose cut is left meanwhile, is none. A request of a clone that failed, for want of room
or by a bad disk, fails the drill whatever CMD says: an application may go on without what it lacks.
"""

from __future__ import annotations

import secrets
import shutil
import time
from typing import TYPE_CHECKING, NamedTuple

from duplexd.backup import sources
from duplexd.backup.background import despite_an_interrupt
from duplexd.backup.own_command import child
from duplexd.core.cut_states import CONSISTENT
from duplexd.core.point import LATEST
from duplexd.errors import DuplexdError, LeaseLostError
from duplexd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.client import Client
    from duplexd.client.clone_commands import Held

TAG = "drill"
_SPOILED = 1  # the exit code of a drill whose CMD was content with clones that failed


class Plan(NamedTuple):
    """`suspend`: at a new cut, which is left afterwards; else at `point`."""

    target: str
    point: str = LATEST
    suspend: bool = False
    limit_bytes: int | None = None


async def run(
    plan: Plan, command: Sequence[str], client: Client, warn: Callable[[str], None]
) -> int:
    """CMD's exit code; 1 if it is 0 and a request of a clone failed. Raises LeaseLostError if the
    cut was left before CMD had ended.

    Nothing is suspended, and no clone made, for a CMD that cannot be found.
    """
    if shutil.which(command[0]) is None:
        raise DuplexdError(
            f"cannot run {command[0]!r}: no such program, or it is not executable; nothing was done"
        )
    if not plan.suspend:
        return await _at(plan.point, plan, command, client, warn)
    made = await client.suspend(plan.target, tag=TAG)
    try:
        if made.verdict != CONSISTENT:
            raise LeaseLostError(f"cut {made.cut} is void: {made.why}; {command[0]} was not run")
        return await _at(made.cut, plan, command, client, warn)
    finally:
        await despite_an_interrupt(_leave(plan, made.cut, client, warn))


async def _leave(plan: Plan, cut: str, client: Client, warn: Callable[[str], None]) -> None:
    try:
        await client.resync(plan.target, cut=cut)
    except DuplexdError as error:  # the outcome of the drill is what counts
        warn(f"no resync began: {error}")


async def _at(
    point: str, plan: Plan, command: Sequence[str], client: Client, warn: Callable[[str], None]
) -> int:
    name = f"drill-{secrets.token_hex(4)}"
    held = client.clones.held(plan.target, point=point, name=name, limit_bytes=plan.limit_bytes)
    async with held:
        found = sources.find(held.points, client.groups.controllers)
        began = time.monotonic()
        code = await child(
            command,
            {
                "DUPLEXD_CUT": held.cut,
                "DUPLEXD_TAG": held.points.tag,
                "DUPLEXD_URIS": "\n".join(f"{each.name} {each.uri}" for each in found),
            },
        )
        if why := await held.why_lost():
            raise LeaseLostError(
                f"the clones of cut {held.cut} ended before {command[0]} had ({why}): what it found"
                f" is of no cut; it ended with {code}"
            )
        if held.faults:
            warn(f"clones had failed requests, so what CMD found is not the cut's:"
                 f" {printable('; '.join(held.faults))}")  # fmt: skip
            code = code or _SPOILED
        await _record(held, code, int((time.monotonic() - began) * 1000), warn)
    return code


async def _record(held: Held, code: int, took_ms: int, warn: Callable[[str], None]) -> None:
    """A drill that passed and is not recorded everywhere has failed: health will ask for it."""
    if held.points.verdict != CONSISTENT:
        verdict = held.points.verdict or "in doubt"
        warn(f"cut {held.cut} is {verdict}: a drill of it says nothing of backups, so it is not"
             " recorded")  # fmt: skip
        return
    try:
        await held.record_drill(code, took_ms)
    except DuplexdError as error:
        warn(f"CMD ended with {code}, but not all controllers have recorded it: {error}")
        if not code:
            raise
