"""Group commit: one `fdatasync` of the journal serves everybody who waits for it.

A sync costs the same whether one record or a thousand became durable by it. So at most one runs,
and those who come meanwhile wait for the next, which starts when this one ends: under load the
batches grow by themselves, without a timer to tune.

A sync that failed is final. Linux reports a write-back error once and then drops the dirty pages,
so a second fdatasync would succeed without the data being on the disk; there is no state to return
to but that of a recovery.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from duplexd.runtime.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.journal.writer import Writer
    from duplexd.runtime.clock import Clock
    from duplexd.runtime.threads import Workers


class GroupCommit:
    """Syncs the journal when a caller needs it, one sync at a time. A sync that failed is final:
    everyone gets EIO from then on.
    """

    def __init__(
        self, writer: Writer, workers: Workers, clock: Clock, failed: Callable[[str], None]
    ) -> None:
        self._writer = writer
        self._workers = workers
        self._clock = clock
        self._failed = failed
        self._waiting: list[tuple[int, Callable[[int], None]]] = []
        self._running = False
        self._began = 0.0  # monotonic, of the sync that runs
        self.dead = False
        self.took = Histogram()  # seconds, of each sync that ended

    def wait(self, sequence: int, done: Callable[[int], None]) -> None:
        """Call `done(errno)` once record `sequence` is durable: at once if it is, else later from
        the loop.
        """
        if self.dead:
            done(errno.EIO)
        elif self._writer.synced >= sequence:
            done(0)
        else:
            self._waiting.append((sequence, done))
            if not self._running:
                self._start()

    def waits_s(self) -> float:
        """How long the sync that runs has taken so far; 0 if none does."""
        return self._clock.monotonic() - self._began if self._running else 0.0

    def _start(self) -> None:
        self._running = True
        files, sequence, index = self._writer.begin_sync()
        began = self._began = self._clock.monotonic()

        def work() -> None:
            for file in files:
                file.sync()

        def done(_result: None, error: BaseException | None) -> None:
            self._running = False
            self.took.observe(self._clock.monotonic() - began)
            if error is not None:
                self.dead = True
                self._failed(f"the journal could not be synced: {error}")
            elif not self.dead:
                self._writer.end_sync(sequence, index)
            self._wake()

        self._workers.submit(work, done)

    def _wake(self) -> None:
        synced, waiting = self._writer.synced, self._waiting
        self._waiting = [item for item in waiting if not self.dead and item[0] > synced]
        if self._waiting:
            self._start()
        for sequence, done in waiting:
            if self.dead or sequence <= synced:
                done(errno.EIO if self.dead and sequence > synced else 0)
