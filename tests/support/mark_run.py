"""Marks a group again and again, as fast as that goes, as a program of its own.

    python -m tests.support.mark_run GROUPS.toml GROUP

Prints "marked" when one was made, whatever its verdict. What fails is tried again: members may be
dead.
"""

from __future__ import annotations

import asyncio
import sys

from duplexd.client import Client
from duplexd.errors import DuplexdError

_AGAIN_SECONDS = 0.02


async def main(groups: str, group: str) -> None:
    while True:
        try:
            async with Client.open(groups) as client:
                while True:
                    await client.marks.make(group)
                    print("marked", flush=True)
        except DuplexdError:
            await asyncio.sleep(_AGAIN_SECONDS)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
