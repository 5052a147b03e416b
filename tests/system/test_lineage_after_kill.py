"""A kill of the daemon is no reason to begin a new lineage, also where nothing is known of the
mount of its state directory, as in the sandbox of its unit. A journal that lost its end is.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from duplexd.attach.export import address_of, open_export
from duplexd.nbd_aio.connecting import connect
from tests.support.daemon import Daemon, DaemonFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 4096
UNKNOWN_MOUNTS = (
    "from duplexd.runtime import disk;"
    "disk.RealDisk.mount = staticmethod(lambda path: '');"
    "from duplexd.daemon.program import main; main()"
)


class InASandbox(Daemon):
    """To which the kernel does not say on which mount its files are."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", UNKNOWN_MOUNTS, "run", "--config", str(self.files.config)]


class InMemory(DaemonFiles):
    """Its control socket is in /dev/shm, as that of the unit is in /run."""

    @property
    def control_socket(self) -> Path:
        return Path(self.extra[2:]) / "ctl.sock"


def lineage(daemon: Daemon) -> str:
    connection = open_export(address_of("data", str(daemon.files.nbd_socket)), 30)
    connection.end()
    found = re.search(", lineage ([0-9a-f]+)", connection.identity)
    assert found is not None
    return found[1]


def write(daemon: Daemon, *blocks: int) -> None:
    """Acknowledged, and not flushed."""

    async def send() -> None:
        client = await connect(daemon.files.uri("data"))
        for block in blocks:
            await client.write(block * BLOCK, bytes([block + 1]) * BLOCK)
        await client.close()

    asyncio.run(send())


def journal_copy(daemon: Daemon) -> dict[Path, bytes]:
    """What a disk has that was synced by now."""
    return {each: each.read_bytes() for each in daemon.files.state_dir.rglob("*") if each.is_file()}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        files = InMemory(tmp_path, {"data": "4MiB"}, extra=f"# {memory}").write()
        daemon = InASandbox(files).start()
        yield daemon
        if daemon.running:
            assert daemon.stop() == 0
        assert "Traceback" not in daemon.log()


def kill(daemon: Daemon) -> None:
    daemon.signal(signal.SIGKILL)
    assert daemon.process is not None
    daemon.process.wait()


def test_a_kill_keeps_it_although_nothing_is_known_of_the_mount(daemon: Daemon) -> None:
    before = lineage(daemon)
    for block in range(3):
        write(daemon, block)
        kill(daemon)
        daemon.start()
        assert lineage(daemon) == before
    assert daemon.stop() == 0
    daemon.start()
    assert lineage(daemon) == before


def test_a_journal_that_lost_acknowledged_records_begins_a_new_one(daemon: Daemon) -> None:
    write(daemon, 0)
    before, synced = lineage(daemon), journal_copy(daemon)
    write(daemon, 1)
    kill(daemon)
    for path, content in synced.items():  # the disk failed, and is back as it was
        path.write_bytes(content)
    daemon.start()
    after = lineage(daemon)
    assert after != before
    write(daemon, 2)
    kill(daemon)
    daemon.start()
    assert lineage(daemon) == after


@pytest.mark.long
def test_a_start_that_is_killed_does_not_forget_that_something_was_lost(daemon: Daemon) -> None:
    write(daemon, 0)
    before, synced = lineage(daemon), journal_copy(daemon)
    write(daemon, 1)
    kill(daemon)
    for path, content in synced.items():
        path.write_bytes(content)
    for tenth in range(3, 9):
        daemon.start(ready=False)
        time.sleep(tenth / 10)
        kill(daemon)
    daemon.start()
    assert lineage(daemon) != before


@pytest.mark.long
def test_without_the_tally_nothing_vouches_for_the_journal(daemon: Daemon) -> None:
    before = lineage(daemon)
    write(daemon, 0)
    kill(daemon)
    daemon.files.control_socket.with_name("ctl.sock.tally").unlink()
    daemon.start()
    assert lineage(daemon) != before


def test_a_tally_of_an_earlier_start_says_nothing(daemon: Daemon) -> None:
    tally, old = daemon.files.control_socket.with_name("ctl.sock.tally"), Path("old")
    write(daemon, 0)
    kill(daemon)
    old = tally.with_name("old")
    shutil.copy2(tally, old)
    daemon.start()
    before = lineage(daemon)
    write(daemon, 1)
    kill(daemon)
    old.replace(tally)
    daemon.start()
    assert lineage(daemon) != before


def test_on_a_disk_there_is_no_tally(tmp_path: Path) -> None:
    files = DaemonFiles(tmp_path, {"data": "4MiB"}).write()
    daemon = InASandbox(files).start()
    try:
        before = lineage(daemon)
        assert not files.control_socket.with_name("ctl.sock.tally").exists()
        kill(daemon)
        daemon.start()
        assert lineage(daemon) != before
    finally:
        assert daemon.stop() == 0
