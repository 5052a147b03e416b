"""Dependent writers on a real daemon, cuts of its volumes, and what the checker finds.

A group cut and a naive split take the same path here but for the list of targets, so that nothing
else can explain the difference in what is found.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from duplexd.canary.checker import Findings, check
from duplexd.canary.workload import Workload
from duplexd.nbd_aio.connecting import connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.canary.record import Placement
    from duplexd.demo.daemon import DaemonProcess
    from duplexd.json_object import Json
    from duplexd.nbd_aio.nbd_disk import Disk

GROUP = "all"


@dataclass(frozen=True, slots=True)
class Cut:
    """One suspension, group-wide or naive, and what the secondaries held then."""

    findings: Findings
    results: list[Json]  # answers of the suspend commands
    pause_s: float  # the longest wait of a writer for a reply meanwhile
    command_s: float

    @property
    def verdict(self) -> str:
        """What the daemon says: `consistent` or `void`."""
        return (
            "consistent"
            if all(result["verdict"] == "consistent" for result in self.results)
            else "void"
        )

    @property
    def held_s(self) -> float:
        """The longest wait by the daemon's own figures."""
        return max(float(result["hold"]["seconds_max"]) for result in self.results)

    @property
    def writes_held(self) -> int:
        """Writes that waited for the cut, by the daemon's own figures."""
        return sum(int(result["hold"]["writes_held"]) for result in self.results)


class Scene:
    """Writers with a connection each to each volume; every second one over TCP.

    Use it as an async context manager.
    """

    def __init__(self, daemon: DaemonProcess, placement: Placement) -> None:
        self.daemon = daemon
        self.names = daemon.names[: placement.volumes]
        self.placement = placement
        self.workload = Workload(placement, self._write)
        self._connections: list[list[Disk]] = []

    async def __aenter__(self) -> Self:
        try:
            addresses = [self.daemon.uri(name) for name in self.names]
            for _ in range(self.placement.writers):
                self._connections.append([await connect(address) for address in addresses])
        except BaseException:
            self._abort()
            raise
        self.workload.start()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            await self.workload.stop()
            await asyncio.gather(*(nbd.close() for row in self._connections for nbd in row))
            return
        self._abort()
        with contextlib.suppress(OSError):
            await self.workload.stop()

    async def write_for(self, seconds: float) -> float:
        """Let the writers write; the longest that a write waited for its reply, in seconds."""
        self.workload.take_longest_s()
        await asyncio.sleep(seconds)
        self.workload.check()
        return self.workload.take_longest_s()

    async def cut_group(self, tag: str = "") -> Cut:
        """Suspend the whole group in one step, and check the secondaries."""
        return await self._cut([[GROUP]], tag)

    async def cut_one_by_one(self, tag: str = "") -> Cut:
        """Suspend one volume after the other, and check the secondaries."""
        return await self._cut([[name] for name in self.names], tag)

    async def changed_bytes(self) -> int:
        """What was written to the volumes since they were suspended, rounded up to grains."""
        status = await self.daemon.call("GET", "/v1/status")
        return sum(int(volume["changed_bytes"]) for volume in status["volumes"])

    async def resync(self) -> int:
        """Bring all secondaries back; the bytes copied. Returns when all are DUPLEX again."""
        done = await self.daemon.call("POST", "/v1/resync", {"targets": [GROUP], "wait": True})
        if not done["ok"]:
            raise RuntimeError(f"the resync failed: {done}")
        return sum(int(volume["copied_bytes"]) for volume in done["volumes"])

    async def _cut(self, steps: Sequence[list[str]], tag: str) -> Cut:
        history = self.workload.history
        self.workload.take_longest_s()
        asked, began = history.tick(), time.perf_counter()
        results = [
            await self.daemon.call("POST", "/v1/suspend", {"targets": targets, "tag": tag})
            for targets in steps
        ]
        done, ended = history.tick(), time.perf_counter()
        pause_s = self.workload.take_longest_s()
        images = await asyncio.to_thread(self.read_secondaries)
        findings = await asyncio.to_thread(check, self.placement, images, history, asked, done)
        self.workload.check()
        return Cut(findings, results, pause_s, ended - began)

    def read_secondaries(self) -> list[bytes]:
        """What a backup would read: the images where they lie."""
        images = []
        for name in self.names:
            with open(self.daemon.secondary(name), "rb") as image:
                images.append(image.read(self.placement.volume_bytes))
        return images

    async def _write(self, writer: int, volume: int, offset: int, data: bytes) -> None:
        await self._connections[writer][volume].write(offset, data)

    def _abort(self) -> None:
        for row in self._connections:
            for nbd in row:
                nbd.abort()
