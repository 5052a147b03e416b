"""Runs one case in which the daemon does not come to serve: the disk of the journal hangs.

There is no daemon then that could be asked, so a row says what those get who ask: nothing. While
the disk hangs the process may not be gone, because one of its threads is in the kernel.
"""

from __future__ import annotations

import asyncio
import http.client
from typing import TYPE_CHECKING

from duplexd.nbd_aio.connecting import connect
from tests.support.daemon import run_duplexctl
from tests.support.reliability.health_row import HealthRow
from tests.support.reliability.measure import (
    Measured,
    Row,
    check_content,
    good_soon,
    prepare,
)
from tests.support.reliability.rig import ANSWER_SECONDS_MAX, rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.reliability.cases import Case
    from tests.support.reliability.rig import Rig

DOWN = "`Down`"  # the alert of a daemon that cannot be scraped


async def measure_start(case: Case, directory: Path) -> Measured:
    """Run it. Asserts that the start ends with an error that names the path, that the daemon
    starts again once the disk answers, and that nothing acknowledged is lost.
    """
    with rig(directory) as broken:
        kept = await prepare(broken)
        await asyncio.to_thread(broken.daemon.kill)
        logged = len(broken.daemon.lines())
        fault = case.breaks(broken.disks[case.part], broken.pattern(case.part))
        assert fault is not None
        await asyncio.to_thread(broken.daemon.start, False)
        line = await asyncio.to_thread(
            broken.daemon.wait_log, "has not answered", after=logged, seconds=ANSWER_SECONDS_MAX
        )
        assert str(broken.files.directory / "state" / "journal") in line, line
        client, health = await what_clients_get(broken), what_health_gives(broken)
        status, well = await ctl(broken, "status"), await ctl(broken, "health")
        log = "error, with the path" if line.startswith("duplexd: ") else line
        fault.lift()
        code = await asyncio.to_thread(broken.daemon.wait)
        assert code == 1
        await asyncio.to_thread(broken.daemon.start)
        assert await good_soon(broken)
        await check_content(broken, kept)
        row = Row(case.part, case.fault, client, case.state, health, log, "none", "restart")
        unwell = HealthRow(
            case.part, case.fault, f"exit code {status}", well, health, log.partition(",")[0], DOWN
        )
        return Measured(row, unwell)


async def what_clients_get(broken: Rig) -> str:
    try:
        await connect(broken.files.uri("data"))
    except OSError:
        return "no connection"
    return "a connection"


def what_health_gives(broken: Rig) -> str:
    try:
        return str(broken.daemon.request("GET", "/readyz", timeout=ANSWER_SECONDS_MAX)[0])
    except (OSError, http.client.HTTPException):
        return "no answer"


async def ctl(broken: Rig, command: str) -> str:
    """The exit code, and nothing else: there is no daemon that would say more."""
    done = await asyncio.to_thread(run_duplexctl, broken.files, command)
    return str(done.returncode)
