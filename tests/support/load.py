"""Writers that load a daemon, with every change recorded in a model (`blocks.py`)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.nbd_aio.connecting import connect
from tests.support.blocks import BLOCK_BYTES, Blocks

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random
    from typing import Self

    from duplexd.nbd_aio.nbd_disk import Disk
    from tests.support.daemon import DaemonFiles

READ_BYTES = 1 << 20
LOOK_SECONDS = 0.002
LONG_BLOCKS = 640  # 2.5 MiB: several records, done in threads


class Load:
    """Changes on several volumes, from several connections, each with several requests in flight.

    A hot part of the volume is rewritten over and over; zeroes, trims, FUA and flushes are among
    it. Writers end when the connection is lost, which a killed daemon is expected to do; any other
    error is raised by `stop`.
    """

    def __init__(
        self,
        files: DaemonFiles,
        models: dict[str, Blocks],
        random: Random,
        connections: int = 2,
        depth: int = 4,
        pause_s: float = 0.0,
        scattered: bool = False,
        trims_zero: bool = True,
    ) -> None:
        self._files = files
        self._models = models
        self._random = random
        self._connections = connections
        self._depth = depth
        self._pause_s = pause_s
        self._scattered = (
            scattered  # single blocks, anywhere: cheaper to resync by journal than by map
        )
        self._trims_zero = (
            trims_zero  # not where a device may be unable to: then they leave the content as it is
        )
        self._open: list[Disk] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.payload_bytes = 0  # sent
        self.longest_s = 0.0  # the longest that a reply took

    async def __aenter__(self) -> Self:
        for name, model in self._models.items():
            for _ in range(self._connections):
                connection = await connect(self._files.uri(name))
                self._open.append(connection)
                self._tasks += [
                    asyncio.create_task(self._write(connection, model)) for _ in range(self._depth)
                ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        for connection in self._open:
            connection.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop(self) -> None:
        """End cleanly: every change is answered. Raises the first error that a client got."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        for connection in self._open:
            await connection.close()

    async def lost(self) -> None:
        """Wait until all connections are lost. Raises the first other error."""
        await asyncio.gather(*self._tasks)

    async def wrote(self, count: int) -> None:
        """Return once on each volume that many more WRITEs were acknowledged. Raises what a writer
        met.
        """
        wanted = {name: model.written + count for name, model in self._models.items()}
        while any(model.written < wanted[name] for name, model in self._models.items()):
            for task in self._tasks:
                if task.done():
                    task.result()
                    raise AssertionError("a connection was lost")
            await asyncio.sleep(LOOK_SECONDS)

    async def _write(self, connection: Disk, model: Blocks) -> None:
        clock = asyncio.get_running_loop().time
        try:
            while not self._stopping:
                began = clock()
                await self._one(connection, model)
                self.longest_s = max(self.longest_s, clock() - began)
                if self._pause_s:
                    await asyncio.sleep(self._random.random() * 2 * self._pause_s)
        except ConnectionError:
            pass

    async def _one(self, connection: Disk, model: Blocks) -> None:
        random = self._random
        kind = random.random()
        if kind < 0.03:
            await connection.flush()
            return
        if self._scattered:
            kind = min(kind + 0.04, 0.99)
        count = (
            1
            if self._scattered
            else min(LONG_BLOCKS, model.count)
            if kind < 0.04
            else random.choice((1, 1, 1, 2, 4, 16))
        )
        hot = max(model.count // 16, count)
        hot_now = random.random() < 0.5 and not self._scattered
        first = random.randrange((hot if hot_now else model.count) - count + 1)
        zero = kind > 0.85
        trim = kind > 0.95
        change = model.send(first, count, zero, may_keep=trim and not self._trims_zero)
        offset, length = first * BLOCK_BYTES, count * BLOCK_BYTES
        if trim:
            await connection.trim(offset, length)
        elif zero:
            await connection.write_zeroes(
                offset, length, fua=kind < 0.86, no_hole=random.random() < 0.5
            )
        else:
            self.payload_bytes += length
            await connection.write(offset, change.payload(), fua=kind > 0.84)
        model.acknowledge(change)


async def read_all(files: DaemonFiles, volume: str) -> bytes:
    """A whole volume, through NBD."""
    async with connect(files.uri(volume)) as nbd:
        pieces = [
            await nbd.read(at, min(READ_BYTES, nbd.size - at))
            for at in range(0, nbd.size, READ_BYTES)
        ]
    return b"".join(pieces)


async def settle(files: DaemonFiles, models: dict[str, Blocks], what: str) -> None:
    """Read every volume and check it against what the clients know."""
    for name, model in models.items():
        model.settle(await read_all(files, name), f"{what}: volume {name}")


def grains_bytes(blocks: Iterable[int], grain_bytes: int = 65536) -> int:
    """What a resync may copy when these blocks changed."""
    return len({block * BLOCK_BYTES // grain_bytes for block in blocks}) * grain_bytes
