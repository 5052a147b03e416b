"""Memory with large volumes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from duplexd.demo.daemon import DaemonError, DaemonProcess
from duplexd.units import MIB, TIB
from tests.bench.loads import fio
from tests.bench.servers import Server, peak_rss_bytes

if TYPE_CHECKING:
    from pathlib import Path

JOURNAL_BYTES = 256 * MIB
LARGE_VOLUMES = 64
LARGE_VOLUMES_WRITTEN = 8
LARGE_WRITES = (
    4000  # on each of them, twice: the second time all of them together stay within the journal
)
LARGE_SECONDS_MAX = 60.0


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
    """Peak RSS in bytes with 64 volumes of 1 TiB: some written at random, suspended, written again,
    brought back.
    """
    return asyncio.run(_measure_large(directory))


async def _measure_large(directory: Path) -> int:
    daemon = DaemonProcess(
        directory, [f"v{number:02}" for number in range(LARGE_VOLUMES)], TIB, JOURNAL_BYTES
    )
    options = [
        "--rw=randwrite",
        "--bs=4k",
        "--iodepth=32",
        "--norandommap",
        "--randrepeat=0",
        f"--number_ios={LARGE_WRITES}",
    ]
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
        # a slow disk may have much to sync; it is killed then, and its images are thrown away
        # anyway
        with contextlib.suppress(DaemonError):
            await daemon.stop()
