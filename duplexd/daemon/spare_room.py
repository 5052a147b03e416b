"""The reserve of room on the disk of state_dir: made while the daemon serves, kept for its start.

Not made before the daemon serves: on a disk that is nearly full the start itself may need the room.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import structlog

from duplexd.runtime.reserve import Reserve

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config
    from duplexd.limits import DaemonLimits
    from duplexd.runtime.threads import Workers

# A checkpoint is written beside the one that it replaces, and may have grown.
_CHECKPOINTS = 2

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")


def reserve_of(config: Config) -> Reserve:
    """The room that is kept for a start on a full disk."""
    return Reserve(str(config.controller.state_dir / "reserve"))


async def keep_room(reserve: Reserve, limits: DaemonLimits, workers: Workers) -> None:
    """Make the reserve, and again if it is gone or too small; try again while there is no room."""
    lacking = False
    while True:
        try:
            await workers.run(lambda: reserve.make(_wanted(reserve, limits)))
        except OSError as error:
            if not lacking:
                log.warning("no room for the reserve of the next start", error=str(error))
            lacking = True
        else:
            if lacking:
                log.info("the reserve of the next start is there again")
            lacking = False
        again = limits.reserve_retry_seconds if lacking else limits.reserve_check_seconds
        await asyncio.sleep(again)


def _wanted(reserve: Reserve, limits: DaemonLimits) -> int:
    checkpoint = os.path.join(os.path.dirname(reserve.path), "checkpoint")
    return max(limits.reserve_bytes, _CHECKPOINTS * os.stat(checkpoint).st_size)
