"""Figures that only duplexd has: cuts of small and large groups under load, and memory with large volumes."""

from __future__ import annotations

import asyncio
from statistics import median
from typing import TYPE_CHECKING, Any

import uvloop

from duplexd.canary.record import Placement
from duplexd.demo.daemon import DaemonProcess
from duplexd.demo.scene import Scene
from duplexd.units import KIB, MIB, TIB
from tests.bench.loads import fio
from tests.bench.servers import Server, peak_rss_bytes

if TYPE_CHECKING:
    from pathlib import Path

PLACEMENT = Placement(writers=4, volumes=16, slots=4)
JOURNAL_BYTES = 256 * MIB
LARGE_VOLUMES = 64
LARGE_VOLUMES_WRITTEN = 8
LARGE_WRITES = 4000  # on each of them, twice: the second time all of them together stay within the journal
LARGE_SECONDS_MAX = 60.0


def measure_cuts(directory: Path, volumes: int, cuts: int) -> dict[str, Any]:
    """Medians and maxima of `cuts` group cuts of that many volumes, in ms, while writers write. Raises if one is not consistent."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure_cuts(directory, volumes, cuts))


async def _measure_cuts(directory: Path, volumes: int, cuts: int) -> dict[str, Any]:
    daemon = DaemonProcess(directory, [f"v{number:04}" for number in range(volumes)], 256 * KIB, JOURNAL_BYTES)
    pauses, held, commands, usual = [], [], [], []
    try:
        await daemon.start()
        async with Scene(daemon, PLACEMENT) as scene:
            for _ in range(cuts):
                usual.append(await scene.write_for(0.3) * 1e3)
                cut = await scene.cut_group()
                if not cut.findings.consistent or cut.verdict != "consistent":
                    raise RuntimeError(f"a cut of {volumes} volumes is broken: {cut.findings}")
                pauses.append(cut.pause_s * 1e3)
                held.append(cut.held_s * 1e3)
                commands.append(cut.command_s * 1e3)
                await scene.resync()
        rss = peak_rss_bytes(daemon.pid)
    finally:
        await daemon.stop()
    series = {"client_pause_ms": pauses, "daemon_pause_ms": held, "command_ms": commands, "longest_write_without_cut_ms": usual}
    figures = {name: {"median": median(values), "max": max(values)} for name, values in series.items()}
    return {"volumes": volumes, "cuts": cuts, "peak_rss_bytes": rss, **figures}


class _Large(Server):
    """One volume of a daemon that runs already."""

    name = "duplexd"

    def __init__(self, daemon: DaemonProcess, volume: str) -> None:
        super().__init__(daemon.directory, TIB)
        self._daemon = daemon
        self._volume = volume

    @property
    def uri(self) -> str:
        return str(self._daemon.uri(self._volume))

    @property
    def pid(self) -> int:
        return self._daemon.pid


def measure_large(directory: Path) -> int:
    """Peak RSS in bytes with 64 volumes of 1 TiB: some written at random, suspended, written again, brought back."""
    return asyncio.run(_measure_large(directory))


async def _measure_large(directory: Path) -> int:
    daemon = DaemonProcess(directory, [f"v{number:02}" for number in range(LARGE_VOLUMES)], TIB, JOURNAL_BYTES)
    options = ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--norandommap", "--randrepeat=0", f"--number_ios={LARGE_WRITES}"]
    try:
        await daemon.start()
        for step in range(2):
            for name in daemon.names[:: LARGE_VOLUMES // LARGE_VOLUMES_WRITTEN]:
                await asyncio.to_thread(fio, _Large(daemon, name), options, LARGE_SECONDS_MAX)
            if step == 0:
                await daemon.call("POST", "/v1/suspend", {"targets": ["all"]})
        await daemon.call("POST", "/v1/resync", {"targets": ["all"], "wait": True})
        return peak_rss_bytes(daemon.pid)
    finally:
        await daemon.stop()
