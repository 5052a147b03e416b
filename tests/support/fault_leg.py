"""A leg that fails on demand, over another leg: errors, torn writes, delays."""

from __future__ import annotations

import errno
from sys import maxsize
from typing import TYPE_CHECKING, Literal, get_args

from tests.sim.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.backend import Pages
    from duplexd.images.leg import Leg
    from duplexd.runtime.disk import Data
    from duplexd.runtime.stamp import Stamp

Operation = Literal[
    "read_into",
    "read_cached",
    "write",
    "zero",
    "resize",
    "reserve",
    "extents",
    "write_back",
    "write_out",
    "sync",
]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)


class FaultLeg:
    """See `Leg`. Passes everything on to `leg` until `fail` or `tear`; `calls` counts by operation,
    failed calls too.

    `delay(operation)` is called before each operation, in the caller's thread: it may sleep.
    """

    __slots__ = ("_faults", "_leg", "calls", "delay", "device", "is_block", "path", "size")

    def __init__(self, leg: Leg, delay: Callable[[Operation], None] | None = None) -> None:
        self._leg = leg
        self._faults: dict[Operation, Fault] = {}
        self.path = leg.path
        self.size = leg.size
        self.is_block, self.device = leg.is_block, leg.device
        self.delay = delay
        self.calls: dict[Operation, int] = dict.fromkeys(OPERATIONS, 0)

    @property
    def can_punch(self) -> bool:
        return self._leg.can_punch

    def fail(
        self, operation: Operation, error: int = errno.EIO, after: int = 0, times: int | None = None
    ) -> None:
        """Make `operation` fail with `error` once `after` more calls have succeeded, `times` times
        or always.
        """
        self._faults[operation] = Fault(error, operation, after, times)

    def tear(self, error: int = errno.EIO, after: int = 0, times: int | None = 1) -> None:
        """Make a write tear: its first half is written, then it fails with `error`."""
        self._faults["write"] = Fault(error, "write", after, times, torn=True)

    def heal(self) -> None:
        """From now on nothing fails."""
        self._faults.clear()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._meet("read_into")
        self._leg.read_into(offset, buffer)

    def read_medium(self, offset: int, buffer: memoryview) -> None:
        self.read_into(offset, buffer)

    def read_cached(self, offset: int, buffer: memoryview) -> bool:
        self._meet("read_cached")
        return self._leg.read_cached(offset, buffer)

    def put_pages(self, offset: int, length: int, pipe: Pages) -> bool:
        self._meet("read_cached")
        return self._leg.put_pages(offset, length, pipe)

    def has_lost_writes(self) -> bool:
        return self._leg.has_lost_writes()

    def write(self, offset: int, data: Data) -> None:
        fault = self._due("write")
        if fault is not None:
            if fault.torn:
                self._leg.write(offset, memoryview(data)[: len(data) // 2])
            raise fault.raised(self.path)
        self._leg.write(offset, data)

    def zero(self, offset: int, length: int, allocate: bool) -> None:
        self._meet("zero")
        self._leg.zero(offset, length, allocate)

    def resize(self, size: int) -> None:
        self._meet("resize")
        self._leg.resize(size)
        self.size = size

    def reserve(self, offset: int, length: int) -> None:
        self._meet("reserve")
        self._leg.reserve(offset, length)

    def extents(
        self, offset: int, length: int, count_max: int = maxsize
    ) -> list[tuple[int, int, bool]]:
        self._meet("extents")
        return self._leg.extents(offset, length, count_max)

    def write_back(self, offset: int, length: int) -> None:
        self._meet("write_back")
        self._leg.write_back(offset, length)

    def write_out(self, offset: int, length: int) -> None:
        self._meet("write_out")
        self._leg.write_out(offset, length)

    def sync(self, times: bool = False) -> None:
        self._meet("sync")
        self._leg.sync(times)

    def drop_cache(self) -> None:
        self._leg.drop_cache()

    def stamp(self) -> Stamp:
        return self._leg.stamp()

    def read_mark(self) -> bytes:
        return self._leg.read_mark()

    def write_mark(self, mark: bytes, durable: bool) -> bool:
        marked = self._leg.write_mark(mark, durable)
        if marked and durable and (fault := self._faults.get("sync")) is not None:
            raise fault.raised(self.path)
        return marked

    def in_place(self, path: str = "") -> bool:
        return self._leg.in_place(path)

    def close(self) -> None:
        self._leg.close()

    def _meet(self, operation: Operation) -> None:
        fault = self._due(operation)
        if fault is not None:
            raise fault.raised(self.path)

    def _due(self, operation: Operation) -> Fault | None:
        self.calls[operation] += 1
        if self.delay is not None:
            self.delay(operation)
        fault = self._faults.get(operation)
        return (
            fault if fault is not None and fault.strikes(operation, operation == "write") else None
        )
