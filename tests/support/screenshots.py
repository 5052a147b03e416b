"""The pictures of docs/images: `duplexctl top` and the page, of one daemon while it is used.

    python -m tests.support.screenshots          # about two minutes; needs chromium

Four volumes are written to for a while. A group is cut, one secondary is lost and copied anew, so
that there is something to see of each kind. Both pictures are of that moment: `top` is drawn by the
code that draws it on a terminal, the page by a browser.

Nobody waits for an hour of samples. So the daemon's counters are read here, 360 times in that time,
and the page is written here with them, by the code that the daemon writes it with: an hour that
passed forty times as fast.
"""

from __future__ import annotations

import asyncio
import io
import math
import random
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.terminal_theme import MONOKAI

from duplexd.api.last_hour import SAMPLES, LastHour
from duplexd.api.page import Glance, page
from duplexd.api.page_style import STYLE
from duplexd.client.api import Client
from duplexd.client.looking_on import LookingOn
from duplexd.core.findings import Finding
from duplexd.duplexctl.top.feed import Feed
from duplexd.duplexctl.top.frame import frame
from duplexd.duplexctl.top.live import drawn
from duplexd.duplexctl.top.moment import for_terminal
from duplexd.duplexctl.top.position import Position
from duplexd.nbd_aio.connecting import connect
from tests.support.browser import Browser
from tests.support.daemon import ROOT, Daemon, DaemonFiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.duplexctl.top.lines import Line

IMAGES = ROOT / "docs" / "images"
OTHER_DISK = Path("/dev/shm")  # that secondaries lie on
COLUMNS, LINES = 100, 22
SECONDS = 100.0  # of use, which the page's plots show as an hour
SAMPLE_SECONDS = SECONDS / SAMPLES
_SIZE, _USED = 64 << 20, 8 << 20
_FOREIGN = re.compile(r"@font-face \{.*?\}|<!--.*?-->", re.DOTALL)  # fonts that would be fetched


@dataclass
class TwoDisks(DaemonFiles):
    """Secondaries lie on another file system."""

    other: Path = OTHER_DISK

    def secondary_of(self, volume: str) -> Path:
        return self.other / f"{volume}.img"


def svg(lines: Sequence[Line], columns: int = COLUMNS) -> str:
    """A frame as a picture that asks for nothing from elsewhere."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
    console.print(drawn(lines))
    text = console.export_svg(title="duplexctl top", theme=MONOKAI, unique_id="top")
    return _FOREIGN.sub("", text).replace("Fira Code", "ui-monospace")


class _Sums(NamedTuple):
    requests: int
    seconds: float


class _Counted(NamedTuple):
    reads: _Sums
    writes: _Sums

    def sums(self) -> tuple[_Sums, _Sums]:
        return self.reads, self.writes


_NAME = "duplexd_nbd_request_duration_seconds"
_SUMS = re.compile(rf'^{_NAME}_(count|sum)\{{op="(\w+)",volume="(\w+)"\}} (\S+)$', re.MULTILINE)


def _traffic(metrics: str) -> dict[str, _Counted]:
    """What a daemon has counted, by volume."""
    found = {(volume, op, of): float(value) for of, op, volume, value in _SUMS.findall(metrics)}

    def sums(volume: str, op: str) -> _Sums:
        got = [found.get((volume, op, of), 0.0) for of in ("count", "sum")]
        return _Sums(int(got[0]), got[1])

    names = {volume for volume, _op, _of in found}
    return {name: _Counted(sums(name, "read"), sums(name, "write")) for name in names}


async def _sample(daemon: Daemon, hour: LastHour) -> None:
    """For as long as there is use. A first sample is where the counters begin."""
    before = monotonic() - SAMPLE_SECONDS
    while True:
        _, metrics = await asyncio.to_thread(daemon.request, "GET", "/metrics")
        now = monotonic()
        hour.note(_traffic(metrics), now - before)
        before = now
        await asyncio.sleep(max(0.0, SAMPLE_SECONDS - (monotonic() - now)))


def _glance(daemon: Daemon, hour: LastHour) -> Glance:
    def get(path: str) -> Any:
        return daemon.request("GET", path)[1]

    status = get("/v1/status")
    findings = [
        Finding(*(each[field] for field in Finding._fields))
        for each in get("/v1/health")["findings"]
    ]
    lines = {name: line for each in status["volumes"] if (line := hour.of(name := each["name"]))}
    return Glance(status, findings, get("/v1/cuts")["cuts"], lines, time())


async def _use(uri: str, pause_s: float, chance: random.Random) -> None:
    """With busy and quiet times."""
    began, wave_s, pause = monotonic(), SECONDS / chance.randint(3, 6), pause_s
    async with connect(uri) as client:
        while True:
            pause_s = pause * (1.2 + math.sin((monotonic() - began) / wave_s * 2 * math.pi))
            offset = chance.randrange(_USED >> 14) << 14
            if chance.random() < 0.3:
                await client.read(offset, 16384)
            else:
                await client.write(offset, chance.randbytes(chance.choice([4096, 16384])))
            await asyncio.sleep(pause_s * chance.random())


async def _seen(daemon: Daemon) -> list[Line]:
    async with Client.local(daemon.files.control_socket) as client:
        feed = Feed(LookingOn(client), 2.0, for_terminal("utf-8"))
        await feed.look()
        await asyncio.sleep(2.0)
        await feed.look()
        seen = feed.seen()
        assert seen is not None
        return frame(seen, Position(), COLUMNS, LINES)


async def _scene(daemon: Daemon, directory: Path) -> None:
    hour = LastHour()
    files, chance = daemon.files, random.Random(7)
    pauses = {"tables": 0.002, "index": 0.004, "wal": 0.001, "blobs": 0.05}
    users = [
        asyncio.create_task(_use(files.uri(name), pause_s, chance))
        for name, pause_s in pauses.items()
    ]
    users.append(asyncio.create_task(_sample(daemon, hour)))
    try:
        await asyncio.sleep(SECONDS / 2)
        await _ask(daemon, "suspend", {"targets": ["db"], "tag": "nightly"})
        await asyncio.sleep(SECONDS / 10)
        await _ask(daemon, "resync", {"targets": ["db"]})
        await asyncio.sleep(SECONDS / 4)
        await _ask(daemon, "suspend", {"targets": ["blobs"], "tag": "before-upgrade"})
        _replace(files.secondary_of("blobs"))
        await asyncio.sleep(SECONDS / 10)
        await _ask(daemon, "resync", {"targets": ["blobs"]})
        await asyncio.sleep(SECONDS / 20)
        lines = await _seen(daemon)
        (IMAGES / "top.svg").write_text(svg(lines))
        await asyncio.to_thread(_page, _glance(daemon, hour), directory)
    finally:
        for user in users:
            user.cancel()
        await asyncio.gather(*users, return_exceptions=True)


def _replace(image: Path) -> None:
    """By a new one, as on a new disk."""
    image.unlink()
    with image.open("wb") as file:
        file.truncate(_SIZE)


async def _ask(daemon: Daemon, verb: str, body: object) -> None:
    status, answer = await asyncio.to_thread(daemon.request, "POST", f"/v1/{verb}", body)
    assert status < 300, answer


def _page(glance: Glance, directory: Path) -> None:
    written = directory / "page.html"
    written.write_text(page(glance))
    (directory / "page.css").write_text(STYLE)
    with Browser(directory, width=900, height=700) as browser:
        browser.open(written.as_uri())
        browser.screenshot(IMAGES / "page.png")


def main() -> None:
    """Write both pictures."""
    directory = Path(tempfile.mkdtemp(prefix="duplexd-screenshots-"))
    other = Path(tempfile.mkdtemp(prefix="duplexd-screenshots-", dir=OTHER_DISK))
    files = TwoDisks(
        directory,
        dict.fromkeys(("tables", "index", "wal", "blobs"), _SIZE),
        {"db": ["tables", "index", "wal"]},
        journal_size="64MiB",
        copy_rate="4MiB",
        name="alpha",
        other=other,
    )
    daemon = Daemon(files.write())
    files.primary("blobs").write_bytes(random.Random(7).randbytes(_SIZE))
    try:
        daemon.start()
        asyncio.run(_scene(daemon, directory))
    finally:
        daemon.kill()
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(other, ignore_errors=True)


if __name__ == "__main__":
    main()
