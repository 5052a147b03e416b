"""A file of the journal whose reads hang on demand, for tests with real threads."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, cast

from tests.support.hanging_leg import PATIENCE_SECONDS

if TYPE_CHECKING:
    from duplexd.journal.segment import Segment
    from duplexd.runtime.disk import File


class HangingReads:
    """See `File`. Reads wait from `hang` on until `release`, then return what they were called for,
    as a disk does that answers late. Everything else is passed on.
    """

    def __init__(self, file: File) -> None:
        self._file = file
        self._answers = threading.Event()
        self._answers.set()
        self._hung = threading.Semaphore(0)
        self.left = threading.Semaphore(0)  # a read that had hung is about to go on

    @classmethod
    def of(cls, segment: Segment) -> HangingReads:
        """In the place of the file of a segment."""
        reads = cls(segment.file)
        segment.file = cast("File", reads)
        return reads

    def hang(self) -> None:
        self._answers.clear()

    def release(self) -> None:
        self._answers.set()

    async def hung(self) -> None:
        """Wait until one more read hangs."""
        assert await asyncio.to_thread(self._hung.acquire, timeout=PATIENCE_SECONDS)

    def read(self, offset: int, length: int) -> bytes:
        if not self._answers.is_set():
            self._hung.release()
            self._answers.wait()
            self.left.release()
        return self._file.read(offset, length)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)
