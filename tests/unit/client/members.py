"""Controllers that answer by the tables of `core/votes.py`, in the test's own loop.

What one answers instead can be planted.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import h11
import pytest

from duplexd.client import Client, ControllerEntry, GroupEntry, Groups
from duplexd.client.results import Suspended
from duplexd.core import cut_states as votes
from duplexd.errors import UndecidedError
from duplexd.limits import ClientLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

Json = dict[str, Any]
CUT = "c" * 16
SILENT = "silent"  # no answer, the connection stays
HANG_UP = "hang up"
EVENTS = {"abort": votes.ABORT, "agree": votes.AGREE, "refuse": votes.REFUSE}


def problem(status: int, exit_code: int, detail: str) -> tuple[int, Json]:
    return status, {"title": "x", "detail": detail, "exit_code": exit_code, "status": status}


class FakeMember:
    """One controller.

    `plant[what]` is answered instead: (status, object), SILENT, HANG_UP, or a function called
    first; `asked` is the log.
    """

    def __init__(self, name: str, path: Path, volumes: tuple[str, ...] = ("data",)) -> None:
        self.name = name
        self.path = path
        self.volumes = dict.fromkeys(volumes, "DUPLEX")
        self.controller: Json = {
            "name": name,
            "version": "0.1.0",
            "group_protocol": 1,
            "hold_max_s": 2.0,
            "nbd": [],
        }
        self.states: dict[str, str] = {}
        self.cut = ""
        self.ended_for: set[str] = set()
        self.tellers: list[list[str]] = []
        self.plant: dict[str, Any] = {}
        self.asked: list[str] = []
        self.bodies: dict[str, Json] = {}
        self.connections = 0
        self.fence = 7
        self.lease: asyncio.Future[str] | None = None
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> FakeMember:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    # -------------------------------------------------------------------------------------- answers

    @property
    def held(self) -> bool:
        return self.lease is not None and not self.lease.done()

    def end(self, reason: str) -> None:
        if self.lease is not None and not self.lease.done():
            self.lease.set_result(reason)

    def status(self) -> Json:
        cut = {
            "id": self.cut,
            "sequence": 5,
            "time": 1.0,
            "tag": "",
            "members": [],
            "verdict": votes.verdict(self.states.get(self.cut, "")),
        }
        cut["members"] = self.bodies.get("cut", {}).get("members", [])
        volumes = [
            {
                "name": name,
                "state": state,
                "reason": "by command",
                "secondary": {"usable": True, "cut": cut if state == "SUSPENDED" else None},
            }
            for name, state in self.volumes.items()
        ]
        undecided = [
            self._cut_status(each)
            for each, state in self.states.items()
            if votes.verdict(state) is None
        ]
        return {
            "controller": self.controller,
            "volumes": volumes,
            "groups": [],
            "leases": [],
            "cuts": undecided,
        }

    def _cut_status(self, cut: str) -> Json:
        state = self.states[cut]
        hold = {
            "seconds_max": 0.004,
            "writes_held": 2,
            "held_s": 0.01,
            "within_limit": True,
            "buckets": [[192, 2]],
            "phases": {},
            "volumes": [],
        }
        members = self.bodies.get("cut", {}).get("members", [])
        return {
            "id": cut,
            "controller": self.name,
            "state": state,
            "verdict": votes.verdict(state),
            "sequence": 5,
            "time": 1.0,
            "tag": "",
            "group": "db",
            "members": members,
            "volumes": [name for name, state in self.volumes.items() if state == "SUSPENDED"],
            "canary": None,
            "hold": hold,
        }

    def answer(self, what: str, cut: str, body: Json) -> tuple[int, Json]:
        if what == "status":
            return 200, self.status()
        if what == "healthz":
            return 200, {"status": "ok", "controller": self.controller["name"]}
        if what == "renew":
            self.fence += 1
            return 200, {"id": "L", "fence": self.fence, "hold_s": body["hold_s"]}
        if what == "release":
            held = self.held
            self.end("released")
            return 200, {"lease": "L", "released": held}
        if what == "unlease" and cut == "L" and self.lease is not None:
            held = self.held
            self.end("released")
            return 200, {"lease": cut, "released": held}
        if what == "unlease":
            return (
                (200, {"lease": cut, "released": False})
                if cut in self.ended_for
                else problem(404, 3, "no such lease")
            )
        if what == "show":
            return (
                (200, self._cut_status(cut))
                if cut in self.states
                else problem(404, 3, "no such cut")
            )
        if what in EVENTS:
            self.states[cut] = votes.after(self.states.get(cut, votes.NONE), EVENTS[what]) or "?"
            self.end("aborted")
            return 200, self._cut_status(cut)
        if not self.held or body["fence"] != self.fence:
            return problem(410, 9, "the lease ended before")
        if what == "cut":
            self.states[cut], self.cut = votes.CUT, cut
            self.volumes = dict.fromkeys(self.volumes, "SUSPENDED")
            return 200, {
                "cut": cut,
                "controller": self.name,
                "sequence": 5,
                "time": 1.0,
                "journal": {},
            }
        assert what == "open"
        self.end("suspended")
        self.states[cut] = votes.READY
        return 200, self._cut_status(cut) | {"images": [{"name": name} for name in self.volumes]}

    # ----------------------------------------------------------------------------------------- HTTP

    @staticmethod
    def _what(method: str, path: str) -> tuple[str, str]:
        parts = path.partition("?")[0].strip("/").split("/")
        if parts[0] != "v1":
            return parts[0], ""
        if method == "DELETE":
            return "unlease", parts[-1]
        if parts[1] == "cuts" and len(parts) > 2:
            return (parts[3] if len(parts) > 3 else "cut" if method == "POST" else "show"), parts[2]
        return parts[-1], ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        connection = h11.Connection(h11.SERVER)
        try:
            while await self._one(connection, reader, writer):
                connection.start_next_cycle()
        except (ConnectionError, h11.RemoteProtocolError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _one(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        request, data = None, b""
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(event, h11.ConnectionClosed):
                return False
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                data += event.data
        assert request is not None
        what, cut = self._what(request.method.decode(), request.target.decode())
        body = json.loads(data) if data else {}
        self.asked.append(
            "rehearsal"
            if what == "release" and self.asked[-1:] in (["healthz"], ["rehearsal"])
            else what
        )
        self.bodies[what] = body
        planted = self.plant.get(what)
        if callable(planted):
            planted = await planted()
        if planted == SILENT:
            await reader.read()
            return False
        if planted == HANG_UP:
            return False
        if what == "quiesce" and planted is None:
            return await self._hold(connection, reader, writer)
        status, value = planted or self.answer(what, cut, body)
        blob = value if isinstance(value, bytes) else json.dumps(value).encode()
        head = [("Content-Length", str(len(blob)))]
        await self._write(
            connection,
            writer,
            h11.Response(status_code=status, headers=head),
            h11.Data(data=blob),
            h11.EndOfMessage(),
        )
        return True

    async def _hold(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        self.lease = lease = asyncio.get_running_loop().create_future()
        line = {
            "event": "held",
            "lease": {"id": "L", "fence": self.fence, "volumes": list(self.volumes)},
        }
        await self._write(
            connection, writer, h11.Response(status_code=200, headers=[]), self._line(line)
        )
        gone = asyncio.ensure_future(reader.read())
        await asyncio.wait((gone, lease), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not lease.done():
            lease.set_result("owner gone")
            return False
        reason = lease.result()
        if reason == HANG_UP:
            return False
        verdict = "consistent" if reason in {"released", "suspended"} else "void"
        await self._write(
            connection,
            writer,
            self._line({"event": "ended", "reason": reason, "verdict": verdict}),
            h11.EndOfMessage(),
        )
        return False

    @staticmethod
    def _line(line: Json) -> h11.Data:
        return h11.Data(data=json.dumps(line).encode() + b"\n")

    @staticmethod
    async def _write(
        connection: h11.Connection, writer: asyncio.StreamWriter, *events: Any
    ) -> None:
        writer.write(b"".join(connection.send(event) or b"" for event in events))
        await writer.drain()


def groups_of(*members: FakeMember, hold_max: float = 2.0) -> Groups:
    """All of them in a group `db`."""
    return Groups(
        controllers={member.name: ControllerEntry(socket=member.path) for member in members},
        groups={
            "db": GroupEntry(
                members=[
                    f"{member.name}:{volume}" for member in members for volume in member.volumes
                ],
                hold_max=hold_max,
            )
        },
    )


@asynccontextmanager
async def members(
    directory: Path, *names: str, hold_max: float = 2.0, settle_s: float = 0.5, **limits: float
) -> AsyncIterator[tuple[Client, list[FakeMember]]]:
    """A client, and that many controllers."""
    found = [await FakeMember(name, directory / f"{name}.sock").start() for name in names]
    try:
        small = replace(ClientLimits(), settle_seconds=settle_s, **limits)  # type: ignore[arg-type]
        async with Client(groups_of(*found, hold_max=hold_max), limits=small) as client:
            yield client, found
    finally:
        for member in found:
            await member.stop()


async def until(true: Callable[[], object]) -> None:
    """Return when it is so."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - what it waits for is not a task
            await asyncio.sleep(0.001)


def after(act: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    """To plant: do something, then answer as usual."""

    async def planted() -> None:
        act()
        await asyncio.sleep(0)

    return planted


def phases(member: FakeMember) -> list[str]:
    return [what for what in member.asked if what not in {"status", "healthz", "rehearsal"}]


def left(controllers: list[FakeMember], *states: str, named: list[str] | None = None) -> None:
    """A coordinator was killed when the members were in these states."""
    for member, state in zip(controllers, states, strict=True):
        member.bodies["cut"] = {"members": named or [each.name for each in controllers]}
        if state:
            member.states[CUT], member.cut = state, CUT
            member.volumes = dict.fromkeys(member.volumes, "SUSPENDED")


def states(controllers: list[FakeMember]) -> list[str]:
    return [member.states.get(CUT, "") for member in controllers]


class Told:
    """A suspend in a task, and what `on_cut` got."""

    def __init__(self, client: Client) -> None:
        self.told: list[Suspended | UndecidedError] = []
        self.task: asyncio.Task[Suspended] = asyncio.create_task(
            client.suspend("db", tag="nightly", on_cut=self.told.append)
        )

    async def cancel(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task

    @property
    def result(self) -> Suspended:
        (found,) = self.told
        assert isinstance(found, Suspended)
        return found

    @property
    def undecided(self) -> UndecidedError:
        (found,) = self.told
        assert isinstance(found, UndecidedError)
        return found
