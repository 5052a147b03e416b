"""The reserves of room on the disk of state_dir: made while the daemon serves; one is kept for its
next start, one for checkpoints, see `runtime/reserve.py`.

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


def reserve_of_checkpoints(config: Config) -> Reserve:
    """The room that is kept for checkpoints on a full disk."""
    return Reserve(str(config.controller.state_dir / "reserve.checkpoint"))


def keep_rooms(config: Config, limits: DaemonLimits, workers: Workers) -> list[asyncio.Task[None]]:
    """Tasks that do so until they are cancelled."""
    kept = {
        "the next start": (reserve_of(config), limits.reserve_bytes),
        "checkpoints": (reserve_of_checkpoints(config), limits.checkpoint_reserve_bytes),
    }
    return [
        asyncio.create_task(_keep_room(purpose, reserve, nbytes, limits, workers), name="reserve")
        for purpose, (reserve, nbytes) in kept.items()
    ]


async def _keep_room(
    purpose: str, reserve: Reserve, nbytes: int, limits: DaemonLimits, workers: Workers
) -> None:
    """Make the reserve, and again if it is gone or too small; try again while there is no room."""
    lacking = False
    while True:
        try:
            await workers.run(lambda: reserve.make(_wanted(reserve, nbytes)))
        except OSError as error:
            if not lacking:
                log.warning("no room for a reserve", kept_for=purpose, error=str(error))
            lacking = True
        else:
            if lacking:
                log.info("the reserve is there again", kept_for=purpose)
            lacking = False
        again = limits.reserve_retry_seconds if lacking else limits.reserve_check_seconds
        await asyncio.sleep(again)


def _wanted(reserve: Reserve, nbytes: int) -> int:
    checkpoint = os.path.join(os.path.dirname(reserve.path), "checkpoint")
    return max(nbytes, _CHECKPOINTS * os.stat(checkpoint).st_size)
