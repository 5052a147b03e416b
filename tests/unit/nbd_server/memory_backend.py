"""A write path in memory: volumes are bytearrays, changes can be held, storage can be made to fail,
reads can be made slow.

Run as a program it serves volumes until it is stopped: `python -m
tests.unit.nbd_server.memory_backend ADDRESS... NAME=BYTES...`.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import signal
import sys
from typing import TYPE_CHECKING, Any

from duplexd.backend import FLUSH, WRITE
from duplexd.limits import NbdLimits
from duplexd.nbd_server.listeners import Listeners
from duplexd.net.address import Address, parse_address
from duplexd.runtime.turns import TurnLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from duplexd.backend import Change, Changes, Client, Extent, Pages, Reader, Volume


class MemoryVolume:
    """`cold`: reads are not served from memory. `lost`: it has lost writes, and memory shows
    zeroes. `error`: errno of every read. `holes`: (offset, length) of each, in order. `dirty`: the
    same, of each bitmap.
    """

    can_zero_fast = True

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.connections = 0
        self.readers: dict[Reader, str] = {}
        self.failing: dict[str, int] = {}
        self.failed = ""
        # zeroes that cost nothing until they are touched
        self.data = memoryview(mmap.mmap(-1, size))
        self.cold = False
        self.lost = False
        self.error = 0
        self.holes: list[tuple[int, int]] = []
        self.dirty: dict[str, list[tuple[int, int]]] = {}

    def closed_to(self, _name: str) -> str:
        return ""

    def bitmaps(self) -> dict[str, str]:
        return {name: name for name in self.dirty}

    @property
    def of(self) -> str:
        return self.name.partition("@")[0]

    @property
    def read_only(self) -> bool:
        return "@" in self.name

    @property
    def lineage(self) -> str:
        return ""

    @property
    def counted_as(self) -> str:
        return self.name

    def joined(self, reader: Reader, peer: str) -> None:
        self.connections += 1
        self.readers[reader] = peer

    def left(self, reader: Reader) -> None:
        self.connections -= 1
        del self.readers[reader]

    def extents(self, offset: int, length: int) -> list[Extent]:
        return _apart(self.holes, offset, length, inside=False)

    def changed(self, bitmap: str, offset: int, length: int) -> list[Extent]:
        return _apart(self.dirty[bitmap], offset, length, inside=True)

    def read_cached(self, offset: int, buffer: memoryview) -> bool:
        if self.cold:
            return False
        if self.error:
            raise OSError(self.error, "as the test wants it")
        length = len(buffer)
        buffer[:] = bytes(length) if self.lost else self.data[offset : offset + length]
        return True

    def has_lost_writes(self) -> bool:
        return self.lost


def _apart(
    ranges: list[tuple[int, int]], offset: int, length: int, *, inside: bool
) -> list[Extent]:
    """A range, taken apart into what is in one of these and what is not."""
    found, end = list[tuple[int, int, bool]](), offset + length
    for start, size in ranges:
        first, last = max(start, offset), min(start + size, end)
        if first < last:
            if first > offset:
                found.append((offset, first - offset, not inside))
            found.append((first, last - first, inside))
            offset = last
    return [*found, (offset, end - offset, not inside)] if offset < end else found


class MemoryBackend:
    """`held` changes wait for `release`; `error` is the errno that every change gets; `log` is what
    was asked for, in order.
    """

    def __init__(self, volumes: dict[str, int]) -> None:
        self.volumes = {name: MemoryVolume(name, size) for name, size in volumes.items()}
        self.holding = False
        self.held: list[Change] = []
        self.batches: list[list[Change]] = []
        self.flushes = 0
        self.gone: list[Client] = []
        self.error = 0
        self.reads: list[
            Callable[[], None]
        ] = []  # reads of cold volumes that wait for `finish_reads`
        self.reads_wait = False
        self.spliced = 0  # how many reads were
        self.sparse_reads: list[tuple[int, int]] = []
        self.asked_one: list[bool] = []  # of each question for extents
        self.asked_bitmaps: list[tuple[str, int]] = []  # the name, and how many extents at most

    def volume(self, name: str) -> Volume | None:
        if not name and len(self.volumes) == 1:
            return next(iter(self.volumes.values()))
        return self.volumes.get(name)

    def volume_names(self) -> list[str]:
        return [name for name in self.volumes if "@" not in name]

    def point_names(self) -> Iterator[str]:
        yield from (name for name in self.volumes if "@" in name)

    def changes_of(self, _volume: Volume) -> Changes:
        return self

    def submit(self, changes: list[Change]) -> None:
        self.batches.append(changes)
        if self.holding:
            for change in changes:
                change.own()
            self.held += changes
            return
        for change in changes:
            self._apply(change)

    def flush(self, change: Change) -> None:
        self.flushes += 1
        change.error = self.error
        change.client.finished([change])

    def read(
        self,
        volume: Volume,
        offset: int,
        length: int,
        room: int,
        done: Callable[[int, bytearray], None],
    ) -> None:
        def finish() -> None:
            stored = self.volumes[volume.name]
            content = bytearray(room) + stored.data[offset : offset + length]
            done(stored.error, bytearray() if stored.error else content)

        if self.reads_wait:
            self.reads.append(finish)
        else:
            asyncio.get_running_loop().call_soon(finish)

    def splice(
        self, volume: Volume, offset: int, length: int, pipe: Pages, done: Callable[[bool], None]
    ) -> None:
        stored = self.volumes[volume.name]
        cached = not (stored.cold or stored.lost or stored.error or self.reads_wait)
        is_put = cached and pipe.put(stored.data[offset : offset + length])
        self.spliced += is_put
        asyncio.get_running_loop().call_soon(done, is_put)

    def read_sparse(
        self,
        volume: Volume,
        offset: int,
        length: int,
        room: int,
        done: Callable[[int, bytearray, list[Extent]], None],
    ) -> None:
        self.sparse_reads.append((offset, length))
        extents = self.volumes[volume.name].extents(offset, length)
        self.read(
            volume, offset, length, room, lambda number, content: done(number, content, extents)
        )

    def extents(
        self,
        volume: Volume,
        offset: int,
        length: int,
        one: bool,
        done: Callable[[list[Extent]], None],
    ) -> None:
        self.asked_one.append(one)
        extents = self.volumes[volume.name].extents(offset, length)
        asyncio.get_running_loop().call_soon(done, extents)

    def changed(
        self,
        volume: Volume,
        offset: int,
        length: int,
        bitmap: str,
        extents_max: int,
        done: Callable[[list[Extent]], None],
    ) -> None:
        self.asked_bitmaps.append((bitmap, extents_max))
        extents = self.volumes[volume.name].changed(bitmap, offset, length)
        asyncio.get_running_loop().call_soon(done, extents[:extents_max])

    def disconnected(self, client: Client) -> None:
        self.gone.append(client)
        self.held = [change for change in self.held if change.client is not client]

    def release(self) -> None:
        """Apply what is held, answer, and hold no longer."""
        self.holding = False
        held, self.held = self.held, []
        for change in held:
            self._apply(change)

    def answer(self, change: Change) -> None:
        """Apply one that is held."""
        self.held.remove(change)
        self._apply(change)

    def finish_reads(self) -> None:
        """Answer the reads that wait."""
        reads, self.reads = self.reads, []
        for read in reads:
            read()

    def _apply(self, change: Change) -> None:
        if not self.error and change.kind != FLUSH:
            data = change.data if change.kind == WRITE else bytes(change.length)
            self.volumes[change.volume.name].data[change.offset : change.offset + change.length] = (
                data
            )
        change.error = self.error
        change.client.finished([change])


async def _serve(listen: list[Address], volumes: dict[str, int]) -> None:
    backend = MemoryBackend(volumes)
    backend.batches, backend.gone = _Forgetful(), _Forgetful()
    listeners = Listeners(backend, listen, NbdLimits())
    await listeners.start()
    print(*listeners.addresses, flush=True)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await listeners.stop()


class _Forgetful(list[Any]):
    def append(self, _item: object) -> None:
        """A long run must not keep everything it saw."""


def main(arguments: list[str]) -> None:
    listen = [parse_address(each) for each in arguments if each.startswith(("unix:", "tcp:"))]
    volumes = dict(argument.split("=") for argument in arguments if "=" in argument)
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=TurnLoop) as runner:
        runner.run(_serve(listen, {name: int(size) for name, size in volumes.items()}))


if __name__ == "__main__":
    main(sys.argv[1:])
