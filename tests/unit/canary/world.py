"""Controllers in one event loop: real NBD servers on memory, a fake HTTP interface, cuts of any
kind.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from duplexd.canary.members import Member
from duplexd.canary.observer import Canary
from duplexd.errors import NotFoundError, UnreachableError, WrongStateError
from duplexd.limits import CanaryLimits, NbdLimits
from duplexd.nbd.uri import NbdUri
from duplexd.nbd_server.listeners import Listeners
from duplexd.net.address import UnixAddress
from tests.unit.nbd_server.memory_backend import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path
    from typing import Self

    from duplexd.backend import Change

    Json = dict[str, Any]

VOLUME_BYTES = 1 << 20
WAIT_SECONDS = 20.0
RATE = 2000.0
LIMITS = CanaryLimits(probe_seconds=0.02, again_seconds=0.02, decided_seconds_max=0.5)


class _Counting(MemoryBackend):
    def __init__(self, volumes: dict[str, int]) -> None:
        super().__init__(volumes)
        self.sequence = 0

    def _apply(self, change: Change) -> None:
        self.sequence += 1
        super()._apply(change)


class FakeController:
    """A controller with volumes, and the `Control` of it.

    `down`: its HTTP interface does not answer.
    """

    def __init__(self, name: str, directory: Path, volumes: dict[str, int]) -> None:
        self.name = name
        self.backend = _Counting(volumes)
        self.address = NbdUri(socket=str(directory / f"{name}.sock"))
        self.listeners = Listeners(self.backend, [UnixAddress(self.address.socket)], NbdLimits())
        self.cuts: dict[str, Json] = {}
        self.images: dict[tuple[str, str], bytes] = {}  # of secondaries, by cut and volume
        self.cut_of: dict[str, str] = {}  # volume: cut
        self.unsettled: set[str] = set()  # cuts that cannot be read yet
        self.grades: dict[str, Json] = {}
        self.down = False
        self._stopped = False
        self._listening: list[asyncio.Queue[Json | None]] = []

    def image(self, volume: str) -> bytes:
        """What the volume holds now."""
        return bytes(self.backend.volumes[volume].data)

    def make_cut(self, cut: str, members: list[str], state: str = "ready") -> None:
        """Suspend all volumes here, and send the event."""
        names = list(self.backend.volumes)
        self.cuts[cut] = {
            "id": cut,
            "state": state,
            "verdict": None,
            "sequence": self.backend.sequence,
            "members": members,
            "volumes": names,
        }
        self.cuts[cut]["verdict"] = state if state in {"consistent", "void"} else None
        for name in names:
            self.images[cut, name] = self.image(name)
            self.cut_of[name] = cut
        self.emit({"event": "cut", "cut": cut, "volumes": names})

    def emit(self, event: Json) -> None:
        for queue in self._listening:
            queue.put_nowait(event)

    def hang_up(self) -> None:
        """End every stream of events."""
        for queue in self._listening:
            queue.put_nowait(None)
        self._listening.clear()

    async def stop(self) -> None:
        """End its NBD server."""
        if not self._stopped:
            self._stopped = True
            await self.listeners.stop(1.0)

    def status(self) -> Json:
        volumes = [
            {
                "name": name,
                "state": "DUPLEX",
                "secondary": {"cut": {"id": self.cut_of[name]} if name in self.cut_of else None},
            }
            for name in self.backend.volumes
        ]
        return {
            "controller": {
                "name": self.name,
                "sequence": self.backend.sequence,
                "group_protocol": 1,
            },
            "volumes": volumes,
        }

    # Control

    async def call(
        self, method: str, path: str, body: Json | None = None, timeout_s: float | None = None
    ) -> Json:
        self._check_up()
        if path.startswith("/v1/status"):
            return self.status()
        match = re.fullmatch(r"/v1/cuts/(\w+)(/grade)?", path)
        assert match, path
        if match[1] not in self.cuts:
            raise NotFoundError(f"{self.name}: no cut {match[1]}")
        if match[2]:
            assert body is not None
            self.grades[match[1]] = body
        cut = self.cuts[match[1]]
        return {
            **cut,
            "volumes": [name for name in cut["volumes"] if self.cut_of.get(name) == match[1]],
        }

    async def call_bytes(self, method: str, path: str, timeout_s: float | None = None) -> bytes:
        self._check_up()
        match = re.fullmatch(r"/v1/cuts/(\w+)/volumes/(\w+)\?offset=(\d+)&length=(\d+)", path)
        assert match, path
        if self.cut_of.get(match[2]) != match[1] or match[1] in self.unsettled:
            raise WrongStateError(f"{self.name}: {match[2]} is not at {match[1]}")
        return self.images[match[1], match[2]][int(match[3]) : int(match[3]) + int(match[4])]

    async def lines(
        self, method: str, path: str, body: Json | None = None
    ) -> AsyncGenerator[Json, None]:
        self._check_up()
        queue: asyncio.Queue[Json | None] = asyncio.Queue()
        self._listening.append(queue)
        try:
            yield {"event": "state", "status": self.status()}
            while (event := await queue.get()) is not None:
                yield event
        finally:
            if queue in self._listening:
                self._listening.remove(queue)

    def _check_up(self) -> None:
        if self.down:
            raise UnreachableError(f"{self.name}: no daemon answers")


class World:
    """Controllers, and canaries over all their volumes. Use it as an async context manager."""

    def __init__(self, directory: Path, controllers: int = 3, size: int = VOLUME_BYTES) -> None:
        self.controllers = [
            FakeController(f"c{number}", directory, {"canary": size})
            for number in range(controllers)
        ]
        self.names = [controller.name for controller in self.controllers]
        self.reports: list[Json] = []
        self.made = 0
        self._canaries: list[tuple[asyncio.Event, asyncio.Task[None]]] = []

    async def __aenter__(self) -> Self:
        for controller in self.controllers:
            await controller.listeners.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for stop, task in self._canaries:
            stop.set()
            if not task.done():
                await task
        for controller in self.controllers:
            await controller.stop()

    def canary(self, reports: list[Json] | None = None, overwrite: bool = False) -> Canary:
        """One that is not running yet."""
        members = [
            Member(controller, controller.address, tuple(controller.backend.volumes))
            for controller in self.controllers
        ]
        reports = self.reports if reports is None else reports
        return Canary(members, reports.append, RATE, overwrite, LIMITS)

    async def start(self, reports: list[Json] | None = None, overwrite: bool = False) -> Canary:
        """A running canary that has written to all volumes several times."""
        reports = self.reports if reports is None else reports
        canary = self.canary(reports, overwrite)
        stop = asyncio.Event()
        self._canaries.append((stop, asyncio.create_task(canary.run(stop))))
        await self.report("running", reports)
        await self.write()
        return canary

    async def write(self) -> None:
        """Wait until the canaries have written to all volumes."""
        before = [controller.backend.sequence for controller in self.controllers]
        await until(
            lambda: all(
                c.backend.sequence >= b + 20 for c, b in zip(self.controllers, before, strict=True)
            )
        )

    async def report(self, event: str, reports: list[Json] | None = None, count: int = 1) -> Json:
        """Wait for the report of that kind, or for the `count`th of them."""
        reports = self.reports if reports is None else reports
        await until(lambda: sum(report["event"] == event for report in reports) >= count)
        return [report for report in reports if report["event"] == event][count - 1]

    async def grades(self) -> list[Json]:
        """The grade of the last cut on each controller, once all have it."""
        await until(lambda: all(self.last in controller.grades for controller in self.controllers))
        return [controller.grades[self.last] for controller in self.controllers]

    @property
    def last(self) -> str:
        """Id of the last cut."""
        return f"{self.made:016x}"

    def cut(self, state: str = "ready") -> str:
        """A cut of all at one point."""
        self.made += 1
        for controller in self.controllers:
            controller.make_cut(self.last, self.names, state)
        return self.last

    async def naive_cut(self) -> str:
        """A cut of one id, one controller after the other while the canary writes."""
        self.made += 1
        for controller in self.controllers:
            controller.make_cut(self.last, self.names)
            await self.write()
        return self.last

    def resync(self) -> None:
        for controller in self.controllers:
            controller.cut_of.clear()


async def until(true: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not true():  # noqa: ASYNC110 - whatever the test waits for
            await asyncio.sleep(0.005)
