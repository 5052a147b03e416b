"""The pictures of docs/images: `duplexctl top` and the page, of one daemon while it is used.

    python -m tests.support.screenshots          # about two minutes; needs chromium

Four volumes are written to for a while. A group is cut, one secondary is lost and copied anew, so
that there is something to see of each kind. Both pictures are of that moment: `top` is drawn by the
code that draws it on a terminal, the page by a browser.
"""

from __future__ import annotations

import asyncio
import io
import random
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.terminal_theme import MONOKAI

from duplexd.canary.nbd import NbdConnection
from duplexd.client.api import Client
from duplexd.client.looking_on import LookingOn
from duplexd.duplexctl.top.feed import Feed
from duplexd.duplexctl.top.frame import frame
from duplexd.duplexctl.top.live import drawn
from duplexd.duplexctl.top.moment import for_terminal
from duplexd.duplexctl.top.position import Position
from tests.support.browser import Browser
from tests.support.daemon import ROOT, Daemon, DaemonFiles, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.duplexctl.top.lines import Line

IMAGES = ROOT / "docs" / "images"
OTHER_DISK = Path("/dev/shm")  # that secondaries lie on
COLUMNS, LINES = 100, 22
SECONDS = 100.0  # of use: ten samples of the page's plots
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


async def _use(uri: str, pause_s: float, chance: random.Random) -> None:
    async with await NbdConnection.open(uri) as client:
        while True:
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


async def _scene(daemon: Daemon, page: str, directory: Path) -> None:
    files, chance = daemon.files, random.Random(7)
    pauses = {"tables": 0.002, "index": 0.004, "wal": 0.001, "blobs": 0.05}
    users = [
        asyncio.create_task(_use(files.uri(name), pause_s, chance))
        for name, pause_s in pauses.items()
    ]
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
        await asyncio.to_thread(_page, page, directory)
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


def _page(url: str, directory: Path) -> None:
    with Browser(directory, width=900, height=700) as browser:
        browser.open(url)
        browser.screenshot(IMAGES / "page.png")


def main() -> None:
    """Write both pictures."""
    directory = Path(tempfile.mkdtemp(prefix="duplexd-screenshots-"))
    other = Path(tempfile.mkdtemp(prefix="duplexd-screenshots-", dir=OTHER_DISK))
    port = free_port()
    files = TwoDisks(
        directory,
        dict.fromkeys(("tables", "index", "wal", "blobs"), _SIZE),
        {"db": ["tables", "index", "wal"]},
        journal_size="64MiB",
        copy_rate="4MiB",
        name="alpha",
        extra=f'[metrics]\nlisten = "tcp:127.0.0.1:{port}"\n',
        other=other,
    )
    daemon = Daemon(files.write())
    files.primary("blobs").write_bytes(random.Random(7).randbytes(_SIZE))
    try:
        daemon.start()
        asyncio.run(_scene(daemon, f"http://127.0.0.1:{port}/", directory))
    finally:
        daemon.kill()
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(other, ignore_errors=True)


if __name__ == "__main__":
    main()
