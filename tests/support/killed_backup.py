"""An incremental backup that is killed when one of its steps begins.

python -m tests.support.killed_backup STEP SOCKET TARGET DEST
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from duplexd.backup.run import Plan, run
from duplexd.backup.steps import Step
from duplexd.client import Client
from duplexd.limits import BackupLimits


class _Killer:
    """Implements `Watch`."""

    def __init__(self, last: Step) -> None:
        self._last = last

    def step(self, step: Step) -> None:
        """Ends the process at the last one."""
        if step is self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    def progress(self, name: str, done: int, total: int) -> None:
        """Not shown."""

    def warn(self, text: str) -> None:
        """Shown in the output of the test."""
        print(text, file=sys.stderr)


async def main() -> None:
    step, socket, target, destination = sys.argv[1:]
    async with Client.local(socket) as client:
        plan = Plan((target,), destination, full_every=7)
        await run(plan, client, _Killer(Step[step]), BackupLimits())


if __name__ == "__main__":
    asyncio.run(main())
