"""The files, the daemon, and what its clients know of it.

Changes are made one after the other, and the story keeps what the volumes may hold after each. So a
secondary that is usable holds what one entry of the story says, and those of one cut hold the same
entry. A change that was refused, or was in flight when the process died, may be there or not.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from duplexd.client import Client
from duplexd.client.certificate import make
from duplexd.errors import DuplexdError
from duplexd.nbd_aio.connecting import connect
from tests.support.blocks import BLOCK_BYTES, Blocks, version_of
from tests.support.daemon import Daemon, DaemonError, DaemonFiles
from tests.support.system_calls.limits import JOURNAL_BYTES
from tests.support.system_calls.tracer import STEP_BYTES, Fault, Place

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence
    from pathlib import Path
    from typing import TypeVar

    from duplexd.client.results import Suspended
    from duplexd.nbd_aio.nbd_disk import Disk
    from tests.support.daemon import Process
    from tests.support.system_calls.launcher import Launcher

    T = TypeVar("T")

VOLUME_BYTES = 256 << 10
NAMES = ("data", "wal", "late")  # the last is mirrored in `async` mode
REQUEST_SECONDS_MAX = 120.0  # of whatever the daemon is asked, however busy the machine is
ENDING_LOOKS = 200
QUIET_SECONDS = 0.02
LATE = """
[volumes.late]
size = {0}
primary = "{1}/a/late.img"
secondary = "{1}/b/late.img"
mode = "async"
"""

Allowed = list[set[int]]  # of one volume: the versions that each block may hold


class EndedError(Exception):
    """The daemon is not there any more."""


class Cut(NamedTuple):
    """A cut that was called consistent, as all its volumes were then."""

    id: str
    volumes: tuple[str, ...]
    entry: int  # of the story
    certificate: str


class SmallDaemon(Daemon):
    """A daemon with the limits of `launch.py`, traced or not."""

    def __init__(self, files: DaemonFiles, launcher: Launcher) -> None:
        super().__init__(files)
        self._launcher = launcher
        self.traced = False
        self.fault: Fault | None = None

    def spawn(self) -> Process:
        """See `Daemon`."""
        fault = [*self.fault.place, self.fault.what] if self.fault else None
        self._launched = self._launcher.start(str(self.files.config), self.traced, fault)
        return self._launched

    def signal(self, number: int) -> None:
        """See `Daemon`."""
        self._launched.signal(number)


def make_files(directory: Path) -> DaemonFiles:
    """Three pairs, two of them in a group."""
    files = DaemonFiles(
        directory,
        dict.fromkeys(NAMES[:2], VOLUME_BYTES),
        {"db": NAMES[:2]},
        journal_size=JOURNAL_BYTES,
        extra=LATE.format(VOLUME_BYTES, directory),
    )
    return files.write()


@dataclass
class World:
    """All methods raise EndedError if the daemon has ended."""

    files: DaemonFiles
    launcher: Launcher
    fault: Fault | None = None
    models: dict[str, Blocks] = field(default_factory=dict)
    story: list[dict[str, Allowed]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # what commands and changes were answered
    cuts: dict[str, Cut] = field(default_factory=dict)  # that volumes were called consistent at
    replaced: set[str] = field(default_factory=set)  # volumes whose secondary is a new image
    step: str = ""

    def __post_init__(self) -> None:
        self.models = {name: Blocks(VOLUME_BYTES) for name in NAMES}
        self.daemon = SmallDaemon(self.files, self.launcher)
        self._nbd: dict[str, Disk] = {}
        self.enter("")
        self.note()

    # ------------------------------------------------------------------------- the traced daemon

    def enter(self, step: str) -> None:
        """The name of what comes now, for the tracer."""
        self.step = step
        descriptor = os.open(self.files.directory / "step", os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(descriptor, step.encode().ljust(STEP_BYTES), 0)
        os.close(descriptor)

    def met(self) -> bool:
        """Whether the call that is to fail, or to be the last, was made."""
        return any(hit for _, hit in self.calls())

    def calls(self) -> list[tuple[Place, bool]]:
        """All calls so far, in order; whether it was the one."""
        path = self.files.directory / "calls"
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # the tracer may be in the midst of another line
        found = [json.loads(line) for line in whole.splitlines()]
        return [(Place(*line[:4]), line[4]) for line in found]

    async def quiet(self) -> None:
        """Wait until what the step has begun is over: nothing is called any more."""
        path, before = self.files.directory / "calls", -1
        while path.exists() and (now := path.stat().st_size) != before:
            before = now
            await asyncio.sleep(QUIET_SECONDS)

    async def start(self, traced: bool) -> None:
        """Start, and wait until it is ready. EndedError if it ends instead. A journal may fail
        before anybody has asked: then it is up, and says so.
        """
        self.daemon.traced, self.daemon.fault = traced, self.fault
        try:
            await asyncio.to_thread(self.daemon.start)
        except DaemonError as error:
            if not self.daemon.running:
                raise EndedError from error
            _, status = await asyncio.to_thread(self.daemon.request, "GET", "/v1/status")
            if not (failed := status["controller"]["failed"]):
                raise
            self.refused.append(f"start: {failed}")

    async def end(self) -> int:
        """SIGTERM; the exit status."""
        self.disconnect()
        return await asyncio.to_thread(self.daemon.stop, REQUEST_SECONDS_MAX)

    def disconnect(self) -> None:
        """Drop all connections."""
        for nbd in self._nbd.values():
            nbd.abort()
        self._nbd.clear()

    # --------------------------------------------------------------------------------- requests

    async def attempt(self, what: str, request: Awaitable[T]) -> T | None:
        """The answer, or None for one that was refused, which is noted."""
        try:
            return await asyncio.wait_for(request, REQUEST_SECONDS_MAX)
        except TimeoutError:
            raise AssertionError(f"{what}: no answer after {REQUEST_SECONDS_MAX} s") from None
        except (OSError, http.client.HTTPException, DuplexdError) as error:
            await self._or_ended(error)
            self.refused.append(f"{what}: {error}")
            return None

    async def _or_ended(self, error: Exception) -> None:
        """One that dies closes its connections a moment before it is gone."""
        refused = "is not served" in str(error)
        lost = isinstance(error, ConnectionError | http.client.HTTPException) and not refused
        for _ in range(ENDING_LOOKS if lost else 0):
            if not self.daemon.running:
                break
            await asyncio.sleep(0.01)
        if not self.daemon.running:
            raise EndedError from error

    async def ask(self, method: str, path: str, body: object = None) -> dict[str, Any] | None:
        """The answer of a request on the control socket; None if it was refused."""

        async def request() -> tuple[int, Any]:
            return await asyncio.to_thread(
                self.daemon.request, method, path, body, REQUEST_SECONDS_MAX
            )

        found = await self.attempt(path, request())
        if found is None or found[0] != 200:
            self.refused.append(f"{path}: {found}")
            return None
        answer = found[1]
        return answer if isinstance(answer, dict) else {"lines": answer}

    async def status(self) -> dict[str, dict[str, Any]]:
        """Of the volumes, by name."""
        found = await self.ask("GET", "/v1/status")
        assert found is not None, self.refused[-1]
        return {volume["name"]: volume for volume in found["volumes"]}

    # ---------------------------------------------------------------------------------- changes

    def note(self) -> None:
        """An entry of the story: what the volumes may hold now."""
        self.story.append({name: model.allowed() for name, model in self.models.items()})

    async def nbd(self, name: str) -> Disk:
        """The connection to a volume."""
        if name not in self._nbd:
            self._nbd[name] = await connect(self.files.uri(name))
        return self._nbd[name]

    async def write(self, name: str, first: int, count: int = 1, fua: bool = False) -> None:
        """Write some blocks."""
        change = self.models[name].send(first, count)
        self.note()

        async def write() -> bool:
            nbd = await self.nbd(name)
            await nbd.write(first * BLOCK_BYTES, change.payload(), fua=fua)
            return True

        if await self._change(name, f"write to {name}", write()):
            self.models[name].acknowledge(change)
            self.note()

    async def zero(self, name: str, first: int, count: int, trim: bool = False) -> None:
        """Zero some blocks, with their space kept, or as a hole."""
        change = self.models[name].send(first, count, zero=True)
        self.note()
        offset, length = first * BLOCK_BYTES, count * BLOCK_BYTES

        async def zero() -> bool:
            nbd = await self.nbd(name)
            await (nbd.trim(offset, length) if trim else nbd.write_zeroes(
                offset, length, no_hole=True
            ))  # fmt: skip
            return True

        if await self._change(name, f"zeroes to {name}", zero()):
            self.models[name].acknowledge(change)
            self.note()

    async def flush(self, name: str) -> None:
        """Flush a volume."""

        async def flush() -> bool:
            await (await self.nbd(name)).flush()
            return True

        await self._change(name, f"flush of {name}", flush())

    async def _change(self, name: str, what: str, request: Awaitable[bool]) -> bool:
        done = await self.attempt(what, request)
        if not done and (nbd := self._nbd.pop(name, None)) is not None:
            nbd.abort()
        return bool(done)

    async def read(self, name: str) -> bytes | None:
        """A whole volume, through NBD."""

        async def read() -> bytes:
            return await (await self.nbd(name)).read(0, VOLUME_BYTES)

        return await self.attempt(f"read of {name}", read())

    # --------------------------------------------------------------------------------- commands

    async def suspend(self, target: str, *volumes: str) -> None:
        """Cut some volumes; keep the certificate if the cut is called consistent."""
        entry = len(self.story) - 1

        async def suspend() -> Suspended:
            async with Client.local(self.files.control_socket) as client:
                return await client.suspend(target, certificate=True)

        found = await self.attempt("suspend", suspend())
        if found is not None and found.verdict == "consistent":
            path = self.files.directory / f"cut-{found.cut}.json"
            path.write_text(json.dumps(make(found)))
            cut = Cut(found.cut, volumes or (target,), entry, str(path))
            self.cuts.update(dict.fromkeys(cut.volumes, cut))

    def leave(self, *volumes: str) -> None:
        """These volumes need not be at their cuts any more."""
        for name in volumes:
            self.cuts.pop(name, None)

    async def resync(self, *targets: str) -> str:
        """A whole resync; how it was done, or "" if it was not."""
        self.leave(*(NAMES[:2] if targets == ("db",) else targets))
        body = {"targets": targets, "wait": True}
        found = await self.ask("POST", "/v1/resync", body)
        if found is None:
            return ""
        lines = found.get("lines")
        parsed = [json.loads(line) for line in str(lines).splitlines()] if lines else [found]
        if not parsed[-1].get("ok"):
            self.refused.append(f"resync: {parsed[-1]}")
            return ""
        return ",".join(sorted({volume["how"] for volume in parsed[0]["volumes"]}))


def matches(image: bytes, allowed: Allowed) -> bool:
    """Whether an image holds only what is allowed."""
    view = memoryview(image)
    return len(image) == len(allowed) * BLOCK_BYTES and all(
        version_of(view[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES], block) in versions
        for block, versions in enumerate(allowed)
    )


def entries(story: Sequence[Mapping[str, Allowed]], images: Mapping[str, bytes]) -> list[int]:
    """The entries of the story that all these images hold."""
    return [
        number
        for number, entry in enumerate(story)
        if all(matches(image, entry[name]) for name, image in images.items())
    ]
