"""A restore that is killed, or whose daemon is, when one of its steps begins or while it writes.

python -m tests.support.killed_restore WHEN SOCKET TARGET SOURCE [PID]

WHEN is the name of a step, or a number: how many pieces are compared and written by then. PID is
who is killed, by default this process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from duplexd.backup.restore import Plan, Step, run
from duplexd.client import Client
from duplexd.limits import BackupLimits


class _Killer:
    """Implements `Watch`."""

    def __init__(self, when: str, pid: int) -> None:
        self._when, self._pid, self._pieces = when, pid, 0

    def step(self, step: Step) -> None:
        """Kills at the one that is named."""
        self._look(step.name)

    def progress(self, _name: str, _done: int, _total: int) -> None:
        """Kills at the piece of that number."""
        self._pieces += 1
        self._look(str(self._pieces))

    def warn(self, text: str) -> None:
        """Shown in the output of the test."""
        print(text, file=sys.stderr)

    def _look(self, now: str) -> None:
        if now == self._when:
            os.kill(self._pid, signal.SIGKILL)


async def main() -> None:
    when, socket, target, source, *pid = sys.argv[1:]
    killer = _Killer(when, int(pid[0]) if pid else os.getpid())
    async with Client.local(socket) as client:
        await run(Plan((target,), source), client, killer, BackupLimits())


if __name__ == "__main__":
    asyncio.run(main())
