"""Dependent writers over volumes of several controllers, and the checker's findings on a cut of
them.

Writers whose connection is lost connect again and write the same record again: a killed daemon is
no error for them, and their chains continue.
"""

from __future__ import annotations

import asyncio
import errno
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from duplexd.canary.checker import Findings, check
from duplexd.canary.workload import Workload
from duplexd.nbd_aio.connecting import connect
from tests.support.daemon import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path
    from typing import Self

    from duplexd.canary.record import Placement
    from duplexd.nbd.uri import NbdUri
    from duplexd.nbd_aio.nbd_disk import Disk
    from tests.support.cluster import Member

T = TypeVar("T")
AGAIN_SECONDS = 0.02


class Taken(NamedTuple):
    """Between which moments of the writers' clock something happened."""

    asked: int
    done: int


class Volumes(Protocol):
    """Where volumes are served, and what is left of them; a cluster knows it."""

    def uri(self, member: Member) -> NbdUri:
        """Where a client finds the volume."""

    def secondary(self, member: Member) -> Path:
        """The image that a backup would read."""


def lost_connection(error: OSError) -> bool:
    """Whether there is no server at the moment; not an error that a server answers."""
    unreachable = {errno.EHOSTUNREACH, errno.ENETUNREACH}
    return (
        isinstance(error, ConnectionError | FileNotFoundError | TimeoutError)
        or error.errno in unreachable
    )


class GroupWriters:
    """`placement.writers` writers that each go round all members.

    Use it as an async context manager.
    """

    def __init__(
        self,
        volumes: Volumes,
        members: Sequence[Member],
        placement: Placement,
        pause_s: float = 0.0,
    ) -> None:
        assert placement.volumes == len(members)
        self.volumes = volumes
        self.members = list(members)
        self.placement = placement
        self.workload = Workload(placement, self._write, pause_s=pause_s)
        self.lost_connections = 0
        self._connections: dict[tuple[int, int], Disk] = {}

    async def __aenter__(self) -> Self:
        self.workload.start()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        try:
            await asyncio.wait_for(self.workload.stop(), None if kind is None else 1.0)
        except TimeoutError:
            pass  # the test has failed already, and its daemons may be gone
        finally:
            for connection in self._connections.values():
                connection.abort()

    async def write(self, records: int) -> None:
        """Return when that many more records are acknowledged. Raises the error of a writer."""
        wanted = self.workload.history.acknowledged + records
        await self._until(lambda: self.workload.history.acknowledged >= wanted)

    async def go_round(self) -> None:
        """Return when each writer has written to all of its slots since.

        Raises the error of a writer.
        """
        history, now = self.workload.history, self.workload.history.tick()
        before = [history.issued_before(writer, now) for writer in range(history.writers)]

        def round_once() -> bool:
            now = history.tick()
            return all(
                history.acknowledged_before(w, now) >= number + self.placement.period
                for w, number in enumerate(before)
            )

        await self._until(round_once)

    async def _until(self, true: Callable[[], bool]) -> None:
        """Raises AssertionError if nothing at all is written for long."""
        seen, deadline = 0, 0.0
        while not true():
            self.workload.check()
            if seen != self.workload.history.acknowledged or not deadline:
                seen, deadline = (
                    self.workload.history.acknowledged,
                    time.monotonic() + PATIENCE_SECONDS,
                )
            assert time.monotonic() < deadline, f"the writers make no progress, at {seen} records"
            await asyncio.sleep(AGAIN_SECONDS / 4)

    async def during(self, work: Awaitable[T]) -> tuple[T, Taken]:
        """The result of the work, and the period in which it was done."""
        asked = self.workload.history.tick()
        result = await work
        return result, Taken(asked, self.workload.history.tick())

    def images(self) -> list[bytes]:
        """The image that a backup would read, for each member."""
        images = []
        for member in self.members:
            with open(self.volumes.secondary(member), "rb") as image:
                images.append(image.read(self.placement.volume_bytes))
        return images

    async def grade(self, taken: Taken) -> Findings:
        """The checker's findings on the secondaries, which are at a cut made in that period."""
        images = await asyncio.to_thread(self.images)
        return check(self.placement, images, self.workload.history, taken.asked, taken.done)

    async def _write(self, writer: int, volume: int, offset: int, data: bytes) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                connection = self._connections.get((writer, volume))
                if connection is None:
                    connection = self._connections[writer, volume] = await connect(
                        self.volumes.uri(self.members[volume])
                    )
                await connection.write(offset, data)
            except OSError as error:
                if not (lost_connection(error) and time.monotonic() < deadline):
                    raise
                self.lost_connections += 1
                if lost := self._connections.pop((writer, volume), None):
                    lost.abort()
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                return
