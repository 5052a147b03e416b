"""A coordinator as a separate process, which a test can kill and stop.

    python -m tests.support.coordinator GROUPS_FILE GROUP

suspends the group and prints the result, or the error, as JSON; the exit status is that of
`duplexctl`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING

from duplexd.client import Client
from duplexd.errors import DuplexdError
from duplexd.limits import ClientLimits
from tests.support.daemon import ROOT, environment

if TYPE_CHECKING:
    from pathlib import Path

VOID_STATUS = 9
SETTLE_SECONDS = 2.0  # a member that is dead or cut off does not come back while this process waits


def start(groups: Path, group: str = "db") -> subprocess.Popen[bytes]:
    """The running process."""
    command = [sys.executable, "-m", "tests.support.coordinator", str(groups), group]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment(), cwd=ROOT
    )


async def suspend(groups: str, group: str) -> int:
    """What the process does."""
    async with Client.open(groups, limits=ClientLimits(settle_seconds=SETTLE_SECONDS)) as client:
        try:
            result = await client.suspend(group)
        except DuplexdError as error:
            print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
            return error.exit_code
    print(json.dumps(result.json()))
    return 0 if result.verdict == "consistent" else VOID_STATUS


if __name__ == "__main__":
    sys.exit(asyncio.run(suspend(*sys.argv[1:])))
