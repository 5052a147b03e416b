"""Reads that have to wait for a disk.

The NBD server itself reads what is in the page cache, in the event loop (`Pair.read_cached`). Other
reads are done here, in a worker, because the loop never waits for a disk.

One good leg is enough: where the primary cannot be read, the secondary answers, if it received
every change in the same batch as the primary, before the read and after it. An async secondary
trails, and a suspended one lacks the changes after its cut: an error is better than old content.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Volume
    from duplexd.core.pair import Pair
    from duplexd.engine.events import Events
    from duplexd.runtime.threads import Workers


class Reads:
    """Reads of volumes, in `workers`."""

    def __init__(self, workers: Workers, events: Events) -> None:
        self._workers = workers
        self._events = events
        self._unreadable: set[int] = set()  # volumes whose primary failed a read

    def read(
        self, volume: Volume, offset: int, buffer: memoryview, done: Callable[[int], None]
    ) -> None:
        """See `Backend`. A range that the primary can't read comes from the secondary if that is
        current. The event is emitted once for a volume, because a client may repeat the read
        thousands of times a second.
        """
        pair = cast("Pair", volume)

        def call() -> OSError | None:
            try:
                pair.primary.read_into(offset, buffer)
            except OSError as unreadable:
                if not pair.read_mirror(offset, buffer):
                    raise
                return unreadable
            return None

        def finished(unreadable: OSError | None, error: BaseException | None) -> None:
            if unreadable is not None and pair.id not in self._unreadable:
                self._unreadable.add(pair.id)
                why = unreadable.strerror or str(unreadable)
                path = pair.primary.path
                self._events.emit("primary-error", volume=pair.name, error=why, path=path)
            done(0 if error is None else (isinstance(error, OSError) and error.errno) or errno.EIO)

        self._workers.submit(call, finished)
