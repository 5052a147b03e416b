"""The requests of one clone: one after the other, in a worker, in order of arrival.

So requests that overlap have the order in which they came, over all connections, and the overlay
needs no lock. What arrives while a worker is busy waits, and goes together in the next call: that
is what makes small requests cheap. A call takes so few of them that answers do not wait long.

An error goes to the request that met it. A disk that does not answer ends the clone, because what
the thread that was given up has done is not known.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from typing import TYPE_CHECKING

from duplexd.backend import FLUSH, TRIM, WRITE
from duplexd.replication.leg_calls import OverlayHungError
from duplexd.runtime.watch import HungError
from duplexd.runtime.writeback import LostWritesError

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Change, Client, Extent
    from duplexd.core.clone import Clone
    from duplexd.core.pair import Pair
    from duplexd.engine.overlay import Overlay
    from duplexd.images.leg import Leg
    from duplexd.limits import EngineLimits
    from duplexd.replication.leg_calls import LegCalls
    from duplexd.runtime.clock import Clock


class Read:
    """A read of a range, with its extents if it is `sparse`."""

    __slots__ = ("_content", "_done", "_extents", "_room", "_sparse", "error", "length", "offset")

    def __init__(
        self,
        offset: int,
        length: int,
        room: int,
        sparse: bool,
        done: Callable[[int, bytearray, list[Extent]], None],
    ) -> None:
        self.offset, self.length = offset, length
        self.error = 0
        self._room = room
        self._sparse = sparse
        self._done = done
        self._content = bytearray()
        self._extents: list[Extent] = []

    def run(self, overlay: Overlay) -> None:
        """In a worker."""
        offset, length, room = self.offset, self.length, self._room
        content = bytearray(room + length)
        extents = [(offset, length, True)]
        if self._sparse:
            extents = overlay.extents(offset, length, lambda _found: False)
        for start, nbytes, is_data in extents:
            if is_data:
                at = room + start - offset
                overlay.read(start, memoryview(content)[at : at + nbytes])
        self._content, self._extents = content, extents

    def answer(self) -> None:
        """In the loop."""
        self._done(self.error, bytearray() if self.error else self._content, self._extents)

    def __str__(self) -> str:
        return f"read of {self.length} bytes at {self.offset}"


class Ask:
    """A question what is data; that all is, is always a safe answer."""

    __slots__ = ("_done", "_found", "_over", "error", "length", "offset")

    def __init__(
        self,
        offset: int,
        length: int,
        over: Callable[[], Callable[[list[Extent]], bool]],
        done: Callable[[list[Extent]], None],
    ) -> None:
        """`over` makes, when it begins, what says that the answer may end."""
        self.offset, self.length = offset, length
        self.error = 0
        self._over = over
        self._done = done
        self._found: list[Extent] = []

    def run(self, overlay: Overlay) -> None:
        """In a worker."""
        self._found = overlay.extents(self.offset, self.length, self._over())

    def answer(self) -> None:
        """In the loop."""
        found = [] if self.error else self._found
        self._done(found or [(self.offset, self.length, True)])


class Changing:
    """A change. FLUSH and FUA ask for nothing: a clone does not survive its daemon."""

    __slots__ = ("change", "error", "length")

    def __init__(self, change: Change) -> None:
        self.change = change
        self.length = change.length
        self.error = 0

    def run(self, overlay: Overlay) -> None:
        """In a worker."""
        change = self.change
        if change.kind == WRITE:
            overlay.write(change.offset, change.data)
        elif change.kind == TRIM:
            overlay.trim(change.offset, change.length)
        elif change.kind != FLUSH:
            overlay.zero(change.offset, change.length, change.allocate)

    def __str__(self) -> str:
        return f"change of {self.length} bytes at {self.change.offset}"


Request = Read | Ask | Changing


class CloneRequests:
    """Of one clone; implements `backend.Changes`. Called from the loop."""

    def __init__(
        self,
        clone: Clone,
        overlay: Overlay,
        legs: LegCalls,
        on_leg_failed: Callable[[Pair, Leg, OSError], None],
        on_hung: Callable[[Clone, str], None],
        clock: Clock,
        limits: EngineLimits,
    ) -> None:
        """`on_leg_failed` is called for a secondary that has lost writes, `on_hung` for a clone
        that has to end.
        """
        self.overlay = overlay
        self._clone = clone
        self._legs = legs
        self._on_leg_failed = on_leg_failed
        self._on_hung = on_hung
        self._monotonic = clock.monotonic
        self._limits = limits
        self._waiting: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None

    def submit(self, changes: list[Change]) -> None:
        """See `Changes`."""
        self._waiting.extend(map(Changing, changes))
        self._go_on()

    def flush(self, change: Change) -> None:
        """See `Changes`."""
        self.submit([change])

    def disconnected(self, client: Client) -> None:
        """See `Changes`."""
        self._waiting = deque(
            each
            for each in self._waiting
            if not (isinstance(each, Changing) and each.change.client is client)
        )

    def read(
        self,
        offset: int,
        length: int,
        room: int,
        sparse: bool,
        done: Callable[[int, bytearray, list[Extent]], None],
    ) -> None:
        """See `Backend.read_sparse`."""
        self._waiting.append(Read(offset, length, room, sparse, done))
        self._go_on()

    async def ask(
        self, offset: int, length: int, one: bool, done: Callable[[list[Extent]], None]
    ) -> None:
        """See `Backend.extents`."""
        count_max = 1 if one else self._limits.extents_max
        found: asyncio.Future[list[Extent]] = asyncio.get_running_loop().create_future()

        def over() -> Callable[[list[Extent]], bool]:
            until = self._monotonic() + self._limits.extents_seconds_max
            return lambda found: len(found) >= count_max or self._monotonic() >= until

        self._waiting.append(Ask(offset, length, over, found.set_result))
        self._go_on()
        done(await found)

    async def close(self) -> None:
        """Give the room of the overlay back. The clone has ended; what runs is waited for."""
        if self._task is not None:
            await asyncio.wait((self._task,))
        if not self.overlay.watch.given_up:  # else it is closed when the thread forgets it
            await self._legs.workers.of(self.overlay).run(self.overlay.close)

    # ---------------------------------------------------------------------------------- inside

    def _go_on(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting:
                taken = self._take()
                if not self._clone.why_not:
                    await self._perform(taken)
                self._answer(taken)
        finally:
            self._task = None

    def _answer(self, requests: list[Request]) -> None:
        """What was read counts only if the clone has not ended by then: it may be newer than the
        cut.
        """
        if self._clone.why_not:
            for request in requests:
                request.error = errno.EIO
        changes: list[Change] = []  # of one client
        for request in requests:
            if not isinstance(request, Changing):
                request.answer()
                continue
            if changes and request.change.client is not changes[0].client:
                changes[0].client.finished(changes)
                changes = []
            request.change.error = request.error
            changes.append(request.change)
        if changes:
            changes[0].client.finished(changes)

    def _take(self) -> list[Request]:
        """What goes in one call: at least one, and not much more than a batch."""
        taken: list[Request] = []
        left = self._limits.batch_bytes_max
        while self._waiting and left > 0:
            request = self._waiting.popleft()
            if isinstance(request, Changing):
                request.change.begun = True
            left -= request.length + self._limits.change_cost_bytes
            taken.append(request)
        return taken

    async def _perform(self, requests: list[Request]) -> None:
        overlay, leg = self.overlay, self._clone.base.leg
        lost: list[OSError] = []

        def perform() -> None:
            for request in requests:
                try:
                    request.run(overlay)
                except OSError as error:
                    request.error = error.errno or errno.EIO
                    if isinstance(error, LostWritesError) and error.filename == overlay.base_path:
                        lost.append(error)
                except MemoryError:
                    request.error = errno.ENOMEM

        try:
            await self._legs.walk(overlay, overlay.watch, perform)
        except (HungError, OverlayHungError) as error:  # what the thread has done is not known
            self._on_hung(self._clone, str(error))
        self._note_fault(requests)
        if lost and leg is not None:
            self._on_leg_failed(self._clone.pair, leg, lost[0])

    def _note_fault(self, requests: list[Request]) -> None:
        """A question has always a safe answer, so it has none."""
        if self._clone.first_fault:
            return
        for request in requests:
            if request.error and not isinstance(request, Ask):
                self._clone.first_fault = f"{request}: {os.strerror(request.error)}"
                return
