"""Random changes to volumes of real daemons, as many bytes as a test grants, so that the amount
does not depend on the speed of the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

from duplexd.nbd_aio.connecting import connect

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from duplexd.nbd_aio.nbd_disk import Disk
    from tests.support.daemon import DaemonFiles

WAIT_SECONDS = 120.0


class Writers:
    """Random writes, zeroes and trims in the first `reach` bytes of each volume, one at a time,
    also after a restart of the daemon.
    """

    def __init__(self, files: Sequence[DaemonFiles], reach: int) -> None:
        self._uris = [each.uri(volume) for each in files for volume in each.volumes]
        self._reach = reach
        self._granted_bytes = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._run(uri, random.Random(number)))
            for number, uri in enumerate(self._uris)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        ended = [task for task in self._tasks if task.done()]
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert not ended, "a writer stopped by itself"

    def grant(self, nbytes: int) -> None:
        """Allow that many more bytes, for all volumes together."""
        self._granted_bytes += nbytes

    async def written(self, left: int = 0) -> None:
        """Wait until everything granted was written, but for `left` bytes."""
        async with asyncio.timeout(WAIT_SECONDS):
            while self._granted_bytes > left:  # noqa: ASYNC110 - several tasks count
                await asyncio.sleep(0.005)

    async def _run(self, uri: str, rng: random.Random) -> None:
        while True:
            with contextlib.suppress(
                ConnectionError, FileNotFoundError
            ):  # not what the daemon refuses
                async with connect(uri) as nbd:
                    while True:
                        await self._change(nbd, rng)
            await asyncio.sleep(0.02)

    async def _change(self, nbd: Disk, rng: random.Random) -> None:
        if self._granted_bytes <= 0:
            await asyncio.sleep(0.005)
            return
        offset, length, kind = (
            rng.randrange(self._reach // 512 - 64) * 512,
            rng.randrange(1, 64) * 512,
            rng.randrange(10),
        )
        if kind < 2:
            await (nbd.trim(offset, length) if kind else nbd.write_zeroes(offset, length))
        else:
            await nbd.write(offset, rng.randbytes(length))
            self._granted_bytes -= length
