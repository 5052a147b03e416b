"""The daemon's worker threads, and its cycle collector."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from duplexd.limits import JOURNAL_THREADS, WORKER_THREADS
from duplexd.runtime.threads import ThreadWorkers

if TYPE_CHECKING:
    import asyncio

# Allocations between two runs of the cycle collector: cycles are rare, and not on the write path
GC_ALLOCATIONS = 20_000


class Threads:
    """The daemon's worker threads, in two pools, so that copies and reads never delay writes and
    syncs of the journal.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.disk = ThreadWorkers(loop, "disk", WORKER_THREADS)
        self.journal = ThreadWorkers(loop, "journal", JOURNAL_THREADS)

    def close(self) -> None:
        self.journal.close()
        self.disk.close()


def calm_collector() -> None:
    """Collect rarely: objects that exist by now stay, and those of a request are freed by reference
    counting. Called after the imports, too: then the second time takes little.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)
