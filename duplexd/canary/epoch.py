"""One epoch: chains of dependent records over all volumes, until a connection breaks.

When a connection breaks, it is not known whether the record in flight was written. So no chain is
continued: the next epoch begins at number 1, with another id, and claims nothing about this one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from duplexd.canary.ground import check_reserved, newest_records
from duplexd.canary.record import RECORD_BYTES, Placement
from duplexd.canary.workload import Workload
from duplexd.errors import WrongStateError
from duplexd.nbd_aio.connecting import connect

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from duplexd.canary.history import History
    from duplexd.canary.members import Volume
    from duplexd.limits import CanaryLimits
    from duplexd.nbd_aio.nbd_disk import Disk

WRITERS = 4
BURST_RECORDS_MAX = 16  # one round over all volumes and the first again, if that is less
SLOTS_MAX = 32  # of one writer on one volume: 512 KiB of each volume in all
_LOOK_SECONDS = 0.1


class Epoch:
    """The writers and what they know. Made by `open`; ended by `close`."""

    def __init__(
        self,
        volumes: Sequence[Volume],
        connections: list[Disk],
        placement: Placement,
        earlier: dict[tuple[int, int], int],
        rate: float,
        limits: CanaryLimits,
    ) -> None:
        self.id = secrets.randbits(64)
        self.placement = placement
        self.earlier = earlier  # by epoch and writer: the newest record there when this one began
        self._connections = connections
        self._limits = limits
        keep = max(2 * placement.period, int(rate * limits.remembered_seconds / WRITERS))
        burst = min(placement.volumes + 1, BURST_RECORDS_MAX)
        self.workload = Workload(
            placement, self._write, epoch=self.id, pause_s=WRITERS / rate, keep=keep, burst=burst
        )
        self._probes = [
            deque[tuple[int, int]](maxlen=limits.probes_max)
            for _ in range(1 + max(volume.member for volume in volumes))
        ]

    @classmethod
    async def open(
        cls, volumes: Sequence[Volume], rate: float, overwrite: bool, limits: CanaryLimits
    ) -> Self:
        """Connect to all volumes, read what is there, clear the slots, begin. `rate`: a second, in
        all.

        Raises OSError, and WrongStateError if a volume holds what must not be overwritten: then
        nothing was written.
        """
        connections: list[Disk] = []
        try:
            for volume in volumes:
                nbd = await connect(volume.uri)
                connections.append(nbd)
            placement = _placement(volumes, connections)
            if not overwrite:
                await asyncio.gather(
                    *(
                        check_reserved(nbd, volume.title, limits.volume_bytes_max)
                        for nbd, volume in zip(connections, volumes, strict=True)
                    )
                )
            found = await asyncio.gather(
                *(newest_records(nbd, placement.volume_bytes) for nbd in connections)
            )
            await asyncio.gather(
                *(nbd.write_zeroes(0, placement.volume_bytes) for nbd in connections)
            )
        except BaseException:
            for nbd in connections:
                nbd.abort()
            raise
        earlier: dict[tuple[int, int], int] = {}
        for newest in found:
            for key, number in newest.items():
                earlier[key] = max(number, earlier.get(key, 0))
        self = cls(volumes, connections, placement, earlier, rate, limits)
        self.workload.start()
        return self

    @property
    def history(self) -> History:
        """When each record was issued and acknowledged."""
        return self.workload.history

    @property
    def running(self) -> bool:
        """Whether no connection has broken yet."""
        return self.workload.running

    def probed(self, member: int, moment: int, sequence: int) -> None:
        """Note that a controller, asked at `moment`, said that `sequence` is its last number."""
        self._probes[member].append((moment, sequence))

    def before(self, member: int, sequence: int) -> int | None:
        """The last moment known to be before the controller's number after `sequence`."""
        return max(
            (moment for moment, last in self._probes[member] if last <= sequence), default=None
        )

    def gone_round(self, moment: int) -> bool:
        """Whether every writer had written to every volume before `moment`."""
        return all(
            self.history.acknowledged_before(writer, moment) >= self.placement.volumes
            for writer in range(self.placement.writers)
        )

    @property
    def ready(self) -> bool:
        """Whether a cut made from now on can be graded."""
        return all(self._probes) and self.gone_round(min(probes[-1][0] for probes in self._probes))

    async def broken(self) -> str:
        """Wait until a connection breaks; why."""
        while True:
            try:
                self.workload.check()
            except OSError as error:
                return str(error)
            if self.workload.waiting_s > self._limits.write_seconds_max:
                return f"a write was not answered for {self._limits.write_seconds_max:g} s"
            await asyncio.sleep(_LOOK_SECONDS)

    async def close(self) -> None:
        """End; if possible, after what is in flight was answered."""
        with suppress(OSError):
            async with asyncio.timeout(self._limits.stop_seconds_max):
                await self.workload.stop()
                await asyncio.gather(*(nbd.close() for nbd in self._connections))
        for nbd in self._connections:
            nbd.abort()

    async def _write(self, _writer: int, volume: int, offset: int, data: bytes) -> None:
        await self._connections[volume].write(offset, data)


def _placement(volumes: Sequence[Volume], connections: Sequence[Disk]) -> Placement:
    smallest = min(nbd.size for nbd in connections)
    slots = min(SLOTS_MAX, smallest // (WRITERS * RECORD_BYTES))
    if not slots:
        title = next(
            volume.title
            for volume, nbd in zip(volumes, connections, strict=True)
            if nbd.size == smallest
        )
        raise WrongStateError(
            f"{title} is too small for a canary: it needs at least {WRITERS * RECORD_BYTES} bytes, "
            "1MiB is a good size"
        )
    return Placement(WRITERS, len(volumes), slots)
