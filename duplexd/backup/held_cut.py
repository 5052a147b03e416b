"""A cut that is made to be read, and that its reader keeps.

What is read is bound to the cut by the reader: while it is there nothing moves the secondaries, and
once it has ended it cannot come back, because its name is used once. So it is enough to ask for it
at the end, after everything was read and compared.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from duplexd.errors import (
    DuplexdError,
    LeaseLostError,
    NotFoundError,
    UndecidedError,
    UnreachableError,
    WrongStateError,
)
from duplexd.printable import printable
from duplexd.runtime.hooks import faults

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from duplexd.backup.steps import Watch
    from duplexd.client import Client, Points, Suspended
    from duplexd.json_object import Json
    from duplexd.limits import BackupLimits

T = TypeVar("T")
_LISTED = 5


class HeldCut:
    """The cut of `targets` that `reader` is to read. `id` is empty until it was made. `hook_fault`:
    what hooks failed to do after it, which makes it no worse; but the application may stand still.
    """

    def __init__(
        self,
        client: Client,
        targets: tuple[str, ...],
        reader: str,
        watch: Watch,
        limits: BackupLimits,
    ) -> None:
        self._client = client
        self._targets = targets  # its volumes, once it was made: a group may change meanwhile
        self._reader = reader
        self._watch = watch
        self._limits = limits
        self._ours = False  # whether the pairs are at our cut, as far as is known
        self._undecided: DuplexdError | None = None  # why that is not known
        self.id = ""
        self.hook_fault: DuplexdError | None = None

    # ------------------------------------------------------------------------------ before it

    async def prepare(self) -> tuple[str, ...]:
        """Bring all pairs to DUPLEX; the volumes. Raises WrongStateError if somebody reads a
        secondary, or if that cannot be.
        """
        volumes = await self._volumes()
        if any(map(_readers, volumes)):
            volumes = await self._when_clients_left()
        readers = [f"{row['name']} by {who}" for row in volumes for who in _readers(row)]
        if readers:
            raise WrongStateError(
                f"nothing was suspended: secondaries are read: {printable(', '.join(readers))};"
                " wait until that has ended, or end a named reader with"
                " `duplexctl release-reader TARGET NAME`"
            )
        names = tuple(str(row["name"]) for row in volumes)
        away = [row for row in volumes if row["state"] != "DUPLEX"]
        if not away:
            return names
        for row in away[:_LISTED]:
            why = f" ({row['reason']})" if row.get("reason") else ""
            self._watch.warn(f"{row['name']} is {row['state']}{why}: it is resynced first")
        done = await self._client.resync(*self._targets, wait=True, progress=self._resyncing)
        for warning in done.warnings:
            self._watch.warn(warning)
        if not done.ok or done.readers:
            raise WrongStateError(
                f"nothing was suspended: the pairs cannot be brought to DUPLEX: {_why(done.json())}"
            )
        return names

    async def _when_clients_left(self) -> list[Json]:
        """The volumes, once no connection reads them, or some time later: a program that has ended
        is a reader until its controller has seen that.
        """
        deadline = time.monotonic() + self._limits.reader_seconds_max
        while True:
            volumes = await self._volumes()
            if not any(map(_clients, volumes)) or time.monotonic() >= deadline:
                return volumes
            await asyncio.sleep(self._limits.look_seconds)

    async def _volumes(self) -> list[Json]:
        status = await self._client.status(*self._targets)
        if status.unreachable:
            raise UnreachableError(printable("; ".join(status.unreachable.values())))
        return status.volumes

    def _resyncing(self, _controller: str, line: Json) -> None:
        for row in line["volumes"] if line["event"] == "progress" else ():
            if row["total_bytes"]:
                self._watch.progress(
                    f"{row['name']}: resync", row["done_bytes"], row["total_bytes"]
                )

    # ---------------------------------------------------------------------------------- at it

    async def make(self, tag: str) -> Suspended:
        """Suspend. Raises LeaseLostError if the cut is not to be read."""
        try:
            cut = await self._client.suspend(
                *self._targets,
                tag=tag,
                certificate=True,
                reader=self._reader,
                on_cut=self._known,
            )
        except UndecidedError as error:
            self._undecided = error
            raise
        if cut.verdict != "consistent" or cut.left:
            raise LeaseLostError(
                f"cut {cut.cut} is void or was left at once, so there is no backup:"
                f" {printable(cut.why) or 'no reason was given'}"
            )
        if wrong := faults(cut.hooks):
            why = f"{printable('; '.join(wrong))}; look at the application: it may still be frozen"
            self.hook_fault = DuplexdError(why)
            self._watch.warn(why)
        return cut

    def _known(self, found: Suspended | UndecidedError) -> None:
        if isinstance(found, UndecidedError):
            self._undecided = found
        else:
            self.id, self._ours = found.cut, True
            self._targets = tuple(found.volumes) or self._targets

    async def points(self) -> Points:
        """Raises LeaseLostError unless all are at the cut, and were since the suspend."""
        points = await self._client.points(*self._targets)
        left = [row["name"] for row in points.volumes if self._reader not in row["readers"]]
        if points.cut != self.id or points.verdict != "consistent" or left:
            gone = ", ".join(left) or "a volume"
            why = "; ".join(row["why"] for row in points.volumes if row["why"])
            raise LeaseLostError(
                f"cut {self.id} was left by {printable(gone)} while it was copied, so there is no"
                f" backup{printable(f' ({why})' if why else '')}"
            )
        return points

    async def while_it_lasts(self, work: Awaitable[T]) -> T:
        """If `work` fails because the cut was left, that is what is said."""
        try:
            return await work
        except DuplexdError as error:
            if left := await self._why_left():
                raise LeaseLostError(f"{left}: {error}") from None
            raise

    async def _why_left(self) -> str:
        try:
            await self.points()
        except LeaseLostError as left:
            return str(left)
        except DuplexdError:  # that it cannot be asked is no better reason
            pass
        return ""

    # ------------------------------------------------------------------------------- after it

    async def release(self) -> None:
        """End its reader, if it began. Raises UndecidedError if it may begin yet."""
        try:
            await self._client.release_reader(*self._targets, reader=self._reader)
        except NotFoundError:
            if self._undecided is not None:
                raise self._undecided from None
        else:
            self._ours = True

    async def resync(self) -> None:
        """Begin it for all that are still at the cut, if it was made: those that somebody took from
        it, or that failed, keep none of the others there. After `release`. Raises WrongStateError.
        """
        if not self._ours:
            return
        volumes = await self._when_clients_left()
        targets = self._targets
        if self.id:
            targets = tuple(str(each["name"]) for each in volumes if _cut_id(each) == self.id)
        if not targets:
            return
        done = await self._client.resync(*targets, cut=self.id)
        for warning in done.warnings:
            self._watch.warn(warning)
        if done.refused:  # the others are on their way
            raise WrongStateError(printable("; ".join(_refused(done.json())[:_LISTED])))


def _readers(volume: Json) -> list[str]:
    return [str(each["name"]) for each in volume.get("readers") or ()]


def _clients(volume: Json) -> bool:
    return any(each.get("kind") == "connection" for each in volume.get("readers") or ())


def _cut_id(volume: Json) -> str:
    """Of the cut that the secondary stands at."""
    cut = (volume.get("secondary") or {}).get("cut") or {}
    return str(cut.get("id", "")) if volume["state"] == "SUSPENDED" else ""


def _refused(resynced: Json) -> list[str]:
    return [f"{row['name']}: {row['error']}" for row in resynced["refused"]]


def _why(resynced: Json) -> str:
    """Of one that was waited for."""
    failed = [
        f"{row['name']} is {row['state']}: {row.get('error') or row.get('reason') or 'no reason'}"
        for row in resynced["volumes"]
        if row.get("state", "DUPLEX") != "DUPLEX"
    ]
    read = [f"read by {who}" for who in resynced["readers"]]
    differing = [f"{row['name']}: legs differ" for row in resynced["volumes"] if row.get("differs")]
    return printable("; ".join([*_refused(resynced), *failed, *read, *differing][:_LISTED]))
