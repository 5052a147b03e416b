"""A restore that is killed, or whose daemon is, when one of its steps begins or while it writes; or
whose daemon is restarted in place then.

python -m tests.support.killed_restore WHEN SOCKET TARGET SOURCE [PID|restart]

WHEN is the name of a step, or a number: how many pieces are compared and written by then. PID is
who is killed, by default this process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

from duplexd.backup.restore import Plan, Step, run
from duplexd.client import Client
from duplexd.limits import BackupLimits


class _Killer:
    """Implements `Watch`."""

    def __init__(self, when: str, socket: str, who: str) -> None:
        self._when, self._socket, self._who, self._pieces = when, socket, who, 0

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
        if now != self._when:
            return
        if self._who == "restart":
            program = [sys.executable, "-c", "from duplexd.duplexctl.cli import main; main()"]
            subprocess.run([*program, "--socket", self._socket, "restart"], check=True)
        else:
            os.kill(int(self._who), signal.SIGKILL)


async def main() -> None:
    when, socket, target, source, *who = sys.argv[1:]
    killer = _Killer(when, socket, who[0] if who else str(os.getpid()))
    async with Client.local(socket) as client:
        await run(Plan((target,), source), client, killer, BackupLimits())


if __name__ == "__main__":
    asyncio.run(main())
