"""The marks of images, on a daemon: one image that hangs stops those of no other, and a secondary
at its cut is not touched.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from duplexd.nbd_aio.connecting import connect
from tests.support.daemon import PATIENCE_SECONDS, Daemon, DaemonFiles, run_duplexctl
from tests.support.fuse import faulty_disk
from tests.support.image_set import MARK

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VOLUMES = {"data": "1MiB", "wal": "1MiB"}


@dataclass
class OnTwoDisks(DaemonFiles):
    """The secondary of `data` lies on the disk `faulty`."""

    def secondary_of(self, volume: str) -> Path:
        if volume == "data":
            return self.directory / "faulty" / "data.img"
        return super().secondary_of(volume)


async def write(files: DaemonFiles, volume: str, content: bytes) -> None:
    async with await connect(files.uri(volume)) as client:
        await client.write(0, content * 4096)
        await client.flush()


def sequence(daemon: Daemon) -> int:
    found: int = daemon.request("GET", "/v1/status")[1]["controller"]["sequence"]
    return found


def wait_marked(image: Path, number: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := json.loads(os.getxattr(image, MARK)))["number"] < number:
        assert time.monotonic() < deadline, f"{image}: {found}, and {number} is durable"
        time.sleep(0.02)


async def test_while_the_mark_of_one_image_hangs_those_of_others_go_on(
    tmp_path: Path, start_daemon: Callable[..., Daemon]
) -> None:
    """The hung call is not given up while the test runs."""
    controller = ["secondary_timeout = 100", "primary_timeout = 100"]
    with faulty_disk(tmp_path / "faulty") as disk:
        files = OnTwoDisks(tmp_path, VOLUMES, controller=controller)
        daemon = start_daemon(files.write())
        hung = disk.hang("attribute", "data.img")
        try:
            await write(files, "data", b"a")
            hung.wait_met()
            for content in (b"b", b"c", b"d"):
                await write(files, "wal", content)
                wait_marked(files.primary("wal"), sequence(daemon))
            assert hung.hanging()
        finally:
            hung.lift()
        await write(files, "data", b"e")
        wait_marked(files.secondary_of("data"), sequence(daemon))
        assert daemon.stop() == 0


async def test_a_secondary_at_its_cut_is_as_suspend_left_it(
    tmp_path: Path, start_daemon: Callable[..., Daemon]
) -> None:
    """`tar` says that a file has changed if its attributes do."""
    files = DaemonFiles(tmp_path, VOLUMES).write()
    daemon = start_daemon(files)
    await write(files, "data", b"a")
    done = run_duplexctl(files, "suspend", "data")
    assert done.returncode == 0, done.stderr
    at_cut = os.stat(files.secondary_of("data"))
    await write(files, "data", b"b")
    wait_marked(files.primary("data"), sequence(daemon))
    daemon.kill()
    daemon.start()
    await write(files, "data", b"c")
    assert daemon.stop() == 0
    now = os.stat(files.secondary_of("data"))
    assert (now.st_ctime_ns, now.st_mtime_ns) == (at_cut.st_ctime_ns, at_cut.st_mtime_ns)
