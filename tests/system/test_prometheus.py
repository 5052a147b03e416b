"""Prometheus scrapes four daemons: each alert fires for its fault, and none where all is well. The
queries of the dashboard return data.

One test with four daemons at once, because each fault takes seconds to be noticed. DuplexdLag takes
five minutes to come about, so it is decided over a series that is put in.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from duplexd.nbd_aio.connecting import connect
from tests.support.alerts import RULES, firing
from tests.support.daemon import ROOT, Daemon, DaemonFiles, free_port
from tests.support.drills import ended_drill
from tests.support.fuse import FaultyDisk
from tests.support.prometheus import Prometheus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from duplexd.json_object import Json
    from duplexd.nbd_aio.nbd_disk import Disk

DASHBOARD = ROOT / "configs" / "grafana-dashboard.json"
MIB = 1 << 20
JOURNAL_BYTES, GONE_JOURNAL_BYTES = 16 * MIB, 32 * MIB
PIECE_BYTES = 128 << 10  # larger ones leave some of a small journal unused
LITTLE = 500 * MIB  # room under state_dir
WELL, DISK, JOURNAL, GONE = "well", "disk", "journal", "gone"  # the daemons, by what fails


@dataclass
class Apart(DaemonFiles):
    """The secondaries of all daemons share one disk, which is not that of the primaries."""

    port: int = 0

    def secondary_of(self, volume: str) -> Path:
        return self.directory.parent / "secondaries" / self.name / f"{volume}.img"

    def text(self) -> str:
        """The secondary of `wal` may trail, and is waited for: the journal keeps what it lacks."""
        waits = super().text().replace("[nbd]", "secondary_timeout = 600.0\n[nbd]", 1)
        others, section, wal = waits.partition('[volumes."wal"]')
        return others + section + wal.replace('mode = "sync"', 'mode = "async"', 1)


def make(directory: Path, name: str) -> Daemon:
    """A daemon that is to be started."""
    port, home = free_port(), directory / name
    (directory / "secondaries" / name).mkdir()
    home.mkdir(exist_ok=True)
    files = Apart(
        home,
        {"data": 8 * MIB, "wal": 8 * MIB, "log": 8 * MIB},
        name=name,
        journal_size=GONE_JOURNAL_BYTES if name == GONE else JOURNAL_BYTES,
        extra=f'[metrics]\nlisten = "tcp:127.0.0.1:{port}"\n',
        port=port,
    )
    return Daemon(files.write())


@dataclass(frozen=True)
class Rig:
    """Four daemons and their disks, with a Prometheus."""

    daemons: dict[str, Daemon]
    secondaries: FaultyDisk
    state: FaultyDisk  # of JOURNAL
    prometheus: Prometheus

    def ask(self, name: str, path: str, **body: object) -> Json:
        code, answer = self.daemons[name].request("POST", path, body)
        assert code == 200, answer
        found: Json = answer
        return found

    async def client(self, name: str, volume: str = "data") -> Disk:
        return await connect(self.daemons[name].files.uri(volume))

    async def until_firing(self, name: str, *alerts: str) -> None:
        """These and no others, of that daemon."""
        expected = {f"Duplexd{alert}" for alert in alerts}
        await self.prometheus.until_firing(name, expected)


@contextlib.contextmanager
def running(directory: Path) -> Iterator[dict[str, Daemon]]:
    """The daemons. The images of a volume of GONE are missing at its last start."""
    daemons = {name: make(directory, name) for name in (WELL, DISK, JOURNAL, GONE)}
    with contextlib.ExitStack() as stack:
        for daemon in daemons.values():
            stack.callback(daemon.kill)
            daemon.start(ready=False)
        gone = daemons[GONE]
        gone.wait_ready()
        gone.stop()
        gone.files.primary("data").unlink()
        gone.files.secondary_of("data").unlink()
        gone.start()
        for daemon in daemons.values():
            daemon.wait_ready()
        yield daemons
        for daemon in daemons.values():
            assert "Traceback" not in daemon.log(), daemon.log()[-4000:]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    (tmp_path / JOURNAL).mkdir()
    with contextlib.ExitStack() as stack:
        secondaries = FaultyDisk(tmp_path / "secondaries")
        stack.callback(secondaries.close)
        state = FaultyDisk(tmp_path / JOURNAL / "state")
        stack.callback(state.close)
        state.fill(LITTLE)
        daemons = stack.enter_context(running(tmp_path))
        stack.callback(state.lift)  # first, so that nothing hangs when the daemon is killed
        targets = {name: _port(daemon) for name, daemon in daemons.items()}
        prometheus = stack.enter_context(Prometheus(tmp_path, targets))
        yield Rig(daemons, secondaries, state, prometheus)


def _port(daemon: Daemon) -> int:
    assert isinstance(daemon.files, Apart)
    return daemon.files.port


async def test_each_alert_fires_for_its_fault_and_the_dashboard_has_data(rig: Rig) -> None:
    await use(rig, WELL)  # an alert that asks for an increase needs a value before it
    cut = await use(rig, DISK)
    await rig.prometheus.until("sum_over_time(up[1m]) > 3", set(rig.daemons))
    await asyncio.gather(well(rig), bad_secondary(rig, cut), bad_journal(rig), missing_images(rig))
    fired = await asyncio.to_thread(rig.prometheus.fired)
    for name in (WELL, DISK, GONE):
        fired[name].discard("DuplexdJournalSilent")  # of a machine whose disk is too busy
    assert fired == {
        WELL: _named("DrillFailed", "NotWell", "Down"),
        DISK: _named("Void", "CutBroken", "LegErrors", "LegFailed", "NotWell"),
        JOURNAL: _named(
            *("StateDirFilling", "JournalSilent", "Refusing", "RequestsFail", "Failed"),
            "ServiceNotWell",
        ),
        GONE: _named("NotServed", "LegFailed", "ServiceNotWell", "JournalFilling"),
    }
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    assert alerts - set().union(*fired.values()) == {"DuplexdLag"}


def _named(*alerts: str) -> set[str]:
    return {f"Duplexd{alert}" for alert in alerts}


async def use(rig: Rig, name: str) -> str:
    """What clients and a backup do; the id of the cut."""
    async with await rig.client(name) as client:
        await client.write(0, b"x" * MIB)
        await client.flush()
        await client.read(0, 4096)
    suspended = await asyncio.to_thread(rig.ask, name, "/v1/suspend", targets=["data", "wal"])
    await asyncio.to_thread(rig.ask, name, "/v1/resync", targets=["data", "wal"], wait=True)
    return str(suspended["cut"])


async def well(rig: Rig) -> None:
    """Used all the time: nothing fires, and the dashboard has data. Then a drill of it fails, the
    next one passes, and it is killed.
    """
    async with await rig.client(WELL) as client:  # what was written fills the journal
        for _ in range(0, 3 * JOURNAL_BYTES // 2, MIB):
            await client.write(0, b"x" * MIB)
    await use(rig, WELL)
    await rig.prometheus.until("duplexd_cut_wait_seconds_count >= 2", {WELL})
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "1m").replace("$instance", WELL)
            samples = await asyncio.to_thread(rig.prometheus.query, query)
            values = [value for _, value in samples if not math.isnan(value)]
            assert values, f"{panel['title']}: no data: {query}"
    await rig.until_firing(WELL)
    await drill(rig, WELL, 1)
    await rig.until_firing(WELL, "DrillFailed", "NotWell")
    await drill(rig, WELL, 0)
    await rig.until_firing(WELL)
    await asyncio.to_thread(rig.daemons[WELL].kill)
    await rig.until_firing(WELL, "Down")


async def drill(rig: Rig, name: str, exit_code: int) -> None:
    """A drill of a new cut, with the outcome of its check."""
    await asyncio.to_thread(ended_drill, rig.daemons[name], ["data"], exit_code)
    await asyncio.to_thread(rig.ask, name, "/v1/resync", targets=["data"], wait=True)


async def bad_secondary(rig: Rig, cut: str) -> None:
    """A hold that is lost, a cut that is broken, a disk that fails."""
    await asyncio.to_thread(rig.ask, DISK, "/v1/quiesce", targets=["data"], hold_s=0.1)
    await rig.until_firing(DISK, "Void")
    graded = {"consistent": False, "records": 1}
    await asyncio.to_thread(rig.ask, DISK, f"/v1/cuts/{cut}/grade", **graded)
    await rig.until_firing(DISK, "Void", "CutBroken")
    rig.secondaries.fail("write fallocate", f"{DISK}/data.img")
    async with await rig.client(DISK) as client:
        await client.write(0, b"x" * 4096)
    failed = "LegErrors", "LegFailed", "NotWell"
    await rig.until_firing(DISK, "Void", "CutBroken", *failed)


async def bad_journal(rig: Rig) -> None:
    """Its disk hangs, is full, fails. It has little room from the start."""
    always = "StateDirFilling"
    await rig.until_firing(JOURNAL, always)
    async with await rig.client(JOURNAL) as client:
        hangs = rig.state.hang("write", "journal/*")
        waits = asyncio.ensure_future(client.write(0, b"x" * 4096))
        await rig.until_firing(JOURNAL, always, "JournalSilent", "ServiceNotWell")
        hangs.lift()
        await waits
        await rig.until_firing(JOURNAL, always)
        rig.state.fill(0)
        await _until(client, errno.ENOSPC)
        await rig.until_firing(JOURNAL, always, "Refusing", "RequestsFail", "ServiceNotWell")
        rig.state.fill(LITTLE)
        await _until(client, 0)
        await rig.until_firing(JOURNAL, always, "RequestsFail")
        rig.state.fail("write", "journal/*")
        await _until(client, errno.EIO)
        await rig.until_firing(JOURNAL, always, "Failed", "RequestsFail", "ServiceNotWell")


async def _until(client: Disk, outcome: int) -> None:
    """Write until this errno or, for 0, success: the journal meets its disk with each segment."""
    found = -1
    while found != outcome:
        found = 0
        try:
            await client.write(0, b"x" * MIB)
        except OSError as error:
            found = error.errno or errno.EIO
        await asyncio.sleep(0)


async def missing_images(rig: Rig) -> None:
    """And a secondary that hangs: the journal keeps what that lacks, while others write."""
    lost = "NotServed", "LegFailed", "ServiceNotWell"
    await rig.until_firing(GONE, *lost)
    hangs = rig.secondaries.hang("write fallocate", f"{GONE}/wal.img")
    async with await rig.client(GONE, "wal") as client:
        await client.write(0, b"x" * 4096)
    await asyncio.to_thread(hangs.wait_met)
    async with await rig.client(GONE, "log") as client:
        for _ in range(0, GONE_JOURNAL_BYTES * 13 // 16, PIECE_BYTES):
            await client.write(0, b"x" * PIECE_BYTES)
    await rig.until_firing(GONE, *lost, "JournalFilling")
    hangs.lift()


def test_a_secondary_that_lags_for_minutes_fires_its_alert(tmp_path: Path) -> None:
    text = (
        "# TYPE duplexd_pair_state gauge\n"
        'duplexd_pair_state{{volume="data",state="{state}"}} 1\n'
        "# TYPE duplexd_secondary_lag_seconds gauge\n"
        'duplexd_secondary_lag_seconds{{volume="data"}} {lag}\n'
    )
    good = text.format(state="DUPLEX", lag=0)
    assert firing(good, text.format(state="DUPLEX", lag=301), tmp_path) == {"DuplexdLag"}
    assert firing(good, text.format(state="DUPLEX", lag=299), tmp_path) == set()
    assert firing(good, text.format(state="SUSPENDED", lag=301), tmp_path) == set()
