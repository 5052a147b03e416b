"""`duplexctl backup TARGET... -- CMD`: somebody else's program copies, the cut is ours.

CMD finds in its environment what it needs:

    DUPLEXD_CUT           the id of the cut
    DUPLEXD_TAG           its tag
    DUPLEXD_URIS          a line for each volume: its name, a blank, its NBD URI
    DUPLEXD_CERTIFICATE   a file, which is removed when CMD has ended: copy it
    DUPLEXD_SINCE         with `since`: the id of the cut that CMD copied before
    DUPLEXD_CHANGES       likewise: a file as well, what changed since, as `changes --json` has it

What it has copied counts only if the cut was not left meanwhile; that is asked when it has ended.
There is no DEST, so a run that is killed leaves its reader to be ended by hand.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from duplexd.backup import sources
from duplexd.backup.background import despite_an_interrupt
from duplexd.backup.held_cut import HeldCut
from duplexd.backup.run import CERTIFICATE, new_reader
from duplexd.backup.scratch import scratch
from duplexd.backup.steps import Step
from duplexd.client import certificate as certificates
from duplexd.errors import DuplexdError, LeaseLostError, UsageError
from duplexd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from duplexd.backup.run import Plan
    from duplexd.backup.steps import Watch
    from duplexd.client import Client
    from duplexd.limits import BackupLimits


CHANGES = "changes.json"
SCRATCH = "duplexd-command-"


async def run(
    plan: Plan, command: Sequence[str], client: Client, watch: Watch, limits: BackupLimits
) -> int:
    """CMD's exit code. Raises LeaseLostError if the cut was left before CMD had ended.

    Nothing is suspended, and no hook is run, for a CMD that cannot be found, or a cut to copy the
    changes since that is not remembered (NotFoundError, WrongStateError).
    """
    if shutil.which(command[0]) is None:
        raise DuplexdError(
            f"cannot run {command[0]!r}: no such program, or it is not executable; nothing was"
            " suspended"
        )
    since = await _since(plan, client) if plan.since else ""
    reader = new_reader()
    cut = HeldCut(client, plan.targets, reader, watch, limits)
    watch.step(Step.DUPLEX)
    await cut.prepare()

    async def leave() -> None:
        await cut.release()
        if plan.resync:
            await cut.resync()

    try:
        code = await _at(cut, replace(plan, since=since), command, client, watch)
    except BaseException:
        try:
            await despite_an_interrupt(leave())
        except DuplexdError as error:
            watch.warn(f"the reader {reader} was not ended, or no resync began: {error}")
        raise
    watch.step(Step.RELEASE)
    await despite_an_interrupt(leave())
    if cut.hook_fault is not None and not code:
        raise cut.hook_fault
    return code


async def _since(plan: Plan, client: Client) -> str:
    """The id of the cut, as which a tag would be another once this cut is made."""
    changes = await client.changes(*plan.targets, since=plan.since)
    ids = {str(row["since"]["cut"]) for row in changes.volumes}
    if len(ids) != 1:
        raise UsageError(
            f"--since {printable(plan.since)} means several cuts: {', '.join(sorted(ids))}; name"
            " one by its id"
        )
    return ids.pop()


async def _at(
    cut: HeldCut, plan: Plan, command: Sequence[str], client: Client, watch: Watch
) -> int:
    watch.step(Step.SUSPEND)
    made = await cut.make(plan.tag)
    found = sources.find(await cut.points(), client.groups.controllers)
    with scratch(SCRATCH) as directory:
        path = directory / CERTIFICATE
        certificates.write(path, certificates.make(made))
        more = {"DUPLEXD_CERTIFICATE": str(path)}
        if plan.since:
            changes = await client.changes(*plan.targets, since=plan.since, until=made.cut)
            file = directory / CHANGES
            file.write_text(json.dumps(changes.json()))
            more |= {"DUPLEXD_SINCE": plan.since, "DUPLEXD_CHANGES": str(file)}
        watch.step(Step.COPY)
        code = await child(
            command,
            {
                "DUPLEXD_CUT": made.cut,
                "DUPLEXD_TAG": made.tag,
                "DUPLEXD_URIS": "\n".join(f"{each.name} {each.uri}" for each in found),
                **more,
            },
        )
    try:
        await cut.points()
    except LeaseLostError as left:
        raise LeaseLostError(f"{left}; {command[0]} ended with {code}") from None
    return code


async def child(command: Sequence[str], more: Mapping[str, str]) -> int:
    """The exit code of a program, with `more` in its environment. A cancellation ends it first."""
    try:
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **more})
    except OSError as error:
        raise DuplexdError(f"cannot run {command[0]!r}: {error.strerror}") from None
    try:
        status = await process.wait()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    return status if status >= 0 else 128 - status
