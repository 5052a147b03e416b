"""Commands on a daemon's control socket, for a test that keeps writing meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any

from tests.support.daemon import PATIENCE_SECONDS, UnixConnection

if TYPE_CHECKING:
    import http.client
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.support.daemon import Daemon

Json = dict[str, Any]


async def call(daemon: Daemon, method: str, path: str, body: object = None) -> Json:
    """One request that succeeds."""
    status, answer = await asyncio.to_thread(daemon.request, method, path, body)
    assert status == 200, f"{method} {path} {body}: {status} {answer}\n{daemon.log()[-4000:]}"
    assert isinstance(answer, dict)
    return answer


async def volumes(daemon: Daemon) -> dict[str, Json]:
    """The status of every volume, by name."""
    return {
        volume["name"]: volume for volume in (await call(daemon, "GET", "/v1/status"))["volumes"]
    }


async def wait_until(
    daemon: Daemon,
    true: Callable[[dict[str, Json]], bool],
    what: str,
    seconds: float = PATIENCE_SECONDS,
) -> dict[str, Json]:
    """Poll the status until the condition holds."""
    deadline = time.monotonic() + seconds
    while True:
        found = await volumes(daemon)
        if true(found):
            return found
        assert time.monotonic() < deadline, (
            f"not within {seconds} s: {what}: {found}\n{daemon.log()[-4000:]}"
        )
        await asyncio.sleep(0.03)


async def wait_state(
    daemon: Daemon, state: str, names: Iterable[str] | None = None
) -> dict[str, Json]:
    """Wait until these volumes, or all, are in a state."""
    wanted = None if names is None else set(names)
    return await wait_until(
        daemon,
        lambda found: all(
            volume["state"] == state
            for name, volume in found.items()
            if wanted is None or name in wanted
        ),
        state,
    )


async def suspend(daemon: Daemon, *targets: str, lease: str | None = None) -> Json:
    """Suspend; checks that the cut is consistent."""
    result = await call(
        daemon,
        "POST",
        "/v1/suspend",
        {"targets": targets, "lease": lease} if lease else {"targets": targets},
    )
    assert result["verdict"] == "consistent", result
    return result


async def start_resync(daemon: Daemon, *targets: str) -> dict[str, str]:
    """Begin a resync; returns how, for each volume."""
    result = await call(daemon, "POST", "/v1/resync", {"targets": targets})
    return {volume["name"]: volume["how"] for volume in result["volumes"]}


async def lines(daemon: Daemon, method: str, path: str, body: object = None) -> list[Json]:
    """A whole stream of lines."""

    def read() -> list[Json]:
        connection = UnixConnection(daemon.files.control_socket)
        try:
            connection.request(
                method,
                path,
                json.dumps(body) if body is not None else None,
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            return [json.loads(line) for line in response.read().splitlines()]
        finally:
            connection.close()

    return await asyncio.to_thread(read)


async def resync(daemon: Daemon, *targets: str) -> dict[str, Json]:
    """A whole resync, to DUPLEX: `how` and `copied_bytes` by volume."""
    found = await lines(daemon, "POST", "/v1/resync", {"targets": targets, "wait": True})
    assert found[-1]["event"] == "done", found
    assert found[-1]["ok"], f"{found}\n{daemon.log()[-4000:]}"
    how = {volume["name"]: volume["how"] for volume in found[0]["volumes"]}
    return {
        volume["name"]: {**volume, "how": how[volume["name"]]} for volume in found[-1]["volumes"]
    }


class HoldStream:
    """The owner of a hold, as a connection of this process."""

    def __init__(self, daemon: Daemon, targets: Iterable[str], hold_s: float) -> None:
        self._connection = UnixConnection(daemon.files.control_socket)
        self._connection.request(
            "POST", "/v1/quiesce", json.dumps({"targets": list(targets), "hold_s": hold_s})
        )
        self._response: http.client.HTTPResponse = self._connection.getresponse()
        assert self._response.status == 200, self._response.read()
        first = json.loads(self._response.readline())
        assert first["event"] == "held", first
        self.lease: str = first["lease"]["id"]

    def last(self) -> Json:
        """Read to the end; the last line."""
        *_, last = self._response.read().splitlines()
        found = json.loads(last)
        assert isinstance(found, dict)
        return found

    def close(self) -> None:
        """Close the connection."""
        self._response.close()
        self._connection.close()


async def hold(daemon: Daemon, targets: Iterable[str], hold_s: float = 10.0) -> HoldStream:
    """Hold these volumes."""
    return await asyncio.to_thread(HoldStream, daemon, targets, hold_s)


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two files are equal."""
    return one.read_bytes() == other.read_bytes()


def resident_bytes(pid: int) -> int:
    """VmRSS of a process."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
