"""A coordinator as a process of its own, as `duplexctl` is: `python -m tests.bench.command
GROUPS_FILE GROUP`.

Each line on stdin is a command, each is answered by a line of JSON on stdout: `suspend` and
`resync` by the coordinator, `plain` a suspend of a single controller by its own command.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from asyncio.subprocess import PIPE
from typing import TYPE_CHECKING, Any

from duplexd.client import Client
from duplexd.client.http import Http
from duplexd.config.groups_file import load
from tests.support.daemon import ROOT, environment

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from pathlib import Path
    from types import TracebackType
    from typing import Self

ANSWER_BYTES_MAX = 1 << 24
ANSWER_SECONDS_MAX = 120.0


class Coordinator:
    """The process, seen from outside. Use it as an async context manager."""

    def __init__(self, groups: Path, group: str) -> None:
        self._arguments = [str(groups), group]
        self._process: Process

    async def __aenter__(self) -> Self:
        command = [sys.executable, "-m", "tests.bench.command", *self._arguments]
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, env=environment(), cwd=ROOT, limit=ANSWER_BYTES_MAX
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def suspend(self, how: str = "suspend") -> dict[str, Any]:
        """Suspend the group; the result."""
        return await self._ask(how)

    async def resync(self) -> None:
        """Return when all pairs are DUPLEX."""
        result = await self._ask("resync")
        if not result.get("ok"):
            raise RuntimeError("not all pairs came back from a resync")

    async def _ask(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what.encode() + b"\n")
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the coordinator ended during {what}")
        answer: dict[str, Any] = json.loads(line)
        return answer


async def _serve(path: str, group: str) -> None:
    groups = load(path)
    ((name, targets), *_) = groups.resolve([group]).members.items()
    loop = asyncio.get_running_loop()
    async with Client(groups) as client:
        link = Http(name, groups.controllers[name])
        gc.freeze()
        while what := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            if what == "plain":
                answer = await link.call("POST", "/v1/suspend", {"targets": list(targets)})
            elif what == "suspend":
                answer = (await client.suspend(group)).json()
            else:
                answer = (await client.resync(group, wait=True)).json()
            print(json.dumps(answer), flush=True)
        link.close()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:]))
