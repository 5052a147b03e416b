"""A primary fails while the daemon runs, with no current secondary to go on with. Later its disk is
repaired, and what lies at its path is looked at again: by a resync, or by a restart.

The same image is served again, with all that was flushed, whatever its disk has lost. An older copy
that was restored in place is refused: with what the journal still has for it, it would be a mixture
of two times. Clients, and the image itself, show it if it is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from duplexd.nbd_aio.connecting import connect
from duplexd.nbd_aio.request_error import ExportRefusedError
from tests.support.commands import call, same_bytes, suspend, volumes
from tests.support.daemon import DaemonFiles, run_duplexctl
from tests.support.fuse import faulty_disk
from tests.support.image_set import copy_set, date, dated_as_before, overwrite

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from duplexd.nbd_aio.nbd_disk import Disk
    from tests.support.daemon import Daemon
    from tests.support.fuse import FaultyDisk

SIZE = 1 << 20
BLOCK = 4096
# What is written after the copy was made, at three places of one region.
BEFORE_CHECKPOINT, AFTER_CHECKPOINT, AT_FAILURE = 2 * BLOCK, 4 * BLOCK, 8 * BLOCK
OLDER = "changed or replaced by an older copy"


class Failed(NamedTuple):
    """The volume `data`, whose primary has failed; another one is well. `older`: a copy of it."""

    daemon: Daemon
    disk: FaultyDisk
    older: Path

    @property
    def path(self) -> Path:
        return self.daemon.files.primary("data")

    def resync(self) -> subprocess.CompletedProcess[str]:
        return run_duplexctl(self.daemon.files, "resync", "data", "--wait")

    def restart(self) -> None:
        assert self.daemon.stop() == 0
        self.daemon.start()

    async def is_not_served(self, why: str) -> None:
        found = await volumes(self.daemon)
        assert (found["data"]["served"], found["wal"]["served"]) == (False, True), found
        assert why in found["data"]["error"], found
        with pytest.raises(ExportRefusedError, match="not served"):
            await connect(self.daemon.files.uri("data"))

    def repair(self) -> None:
        """What was not synced is lost. That is no write, so the time of the image stays."""
        self.disk.lift()
        image = self.disk.below / self.path.name
        before = dated_as_before(image)
        assert self.disk.forget() > 0, "nothing was lost: the journal has nothing to bring"
        date(image, before)


async def write(client: Disk, offset: int, content: bytes) -> None:
    await client.write(offset, content)
    await client.flush()


@pytest.fixture(params=["no secondary", "secondary at its cut"])
async def failed(
    request: pytest.FixtureRequest, tmp_path: Path, start_daemon: Callable[..., Daemon]
) -> AsyncIterator[Failed]:
    """What was flushed last is in the journal, and on no image durably."""
    secondary = request.param != "no secondary"
    with faulty_disk(tmp_path / "a", volatile=True) as disk:
        files = DaemonFiles(tmp_path, {"data": SIZE, "wal": SIZE}, secondary=secondary).write()
        daemon = start_daemon(files)
        async with connect(files.uri("data")) as client:
            await write(client, 0, b"a" * SIZE)
            if secondary:
                await suspend(daemon, "data")
            older = copy_set(files.primary("data"), tmp_path / "older.img")
            await write(client, BEFORE_CHECKPOINT, b"b" * BLOCK)
        failed = Failed(daemon, disk, older)
        failed.restart()  # which takes two: only the block above is left to tell the copy by
        async with connect(files.uri("data")) as client:
            await write(client, AFTER_CHECKPOINT, b"c" * BLOCK)
            disk.fail("", failed.path.name)
            with pytest.raises(OSError, match="Input/output error"):
                await write(client, AT_FAILURE, b"d" * BLOCK)
        await failed.is_not_served("Input/output error")
        yield failed
        disk.lift()
        daemon.kill()


@pytest.mark.parametrize("looked_at_by", ["resync", "restart"])
async def test_an_older_copy_that_was_restored_in_place_is_refused(
    failed: Failed, looked_at_by: str
) -> None:
    failed.disk.lift()
    overwrite(failed.older, failed.path)
    if looked_at_by == "restart":
        failed.restart()
        await failed.is_not_served(OLDER)
    for _ in range(2):  # being refused once makes it no better
        done = failed.resync()
        assert (done.returncode, OLDER in done.stderr) == (5, True), done
        await failed.is_not_served("")
    assert same_bytes(failed.path, failed.older)


@pytest.mark.parametrize("looked_at_by", ["resync", "restart"])
async def test_the_same_image_is_served_with_all_that_was_flushed(
    failed: Failed, looked_at_by: str
) -> None:
    failed.repair()
    files = failed.daemon.files
    if looked_at_by == "restart":
        failed.restart()
    else:
        done = failed.resync()
        assert (done.returncode == 0) == files.secondary, done  # without one there is no more to do
    async with connect(files.uri("data")) as client:
        found = await client.read(0, SIZE)
    image, older = bytearray(found), failed.older.read_bytes()
    assert found[BEFORE_CHECKPOINT:][:BLOCK] == b"b" * BLOCK
    assert found[AFTER_CHECKPOINT:][:BLOCK] == b"c" * BLOCK
    for offset in (BEFORE_CHECKPOINT, AFTER_CHECKPOINT, AT_FAILURE):
        image[offset : offset + BLOCK] = older[offset : offset + BLOCK]
    assert image == older
    if files.secondary:
        done = failed.resync()
        assert done.returncode == 0, done
        assert (await call(failed.daemon, "POST", "/v1/verify", {"targets": ["data"]}))["equal"]
        assert same_bytes(failed.path, files.secondary_of("data"))
