"""Cuts read over NBD by the clients of others, while nobody can move them."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from duplexd.nbd_aio.connecting import connect
from tests.support.commands import same_bytes
from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

SIZE = 16 << 20
MAIN = [sys.executable, "-c", "from duplexd.duplexctl.cli import main; main()"]
BEFORE, AFTER = b"\x01" * 65536, b"\x02" * 65536


class Operator:
    """duplexctl on a daemon whose pair holds `BEFORE` at its cut, and `AFTER` now."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    def __call__(self, *arguments: str) -> int:
        """The exit code."""
        return self.run(*arguments).returncode

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*MAIN, "--socket", str(self.daemon.files.control_socket), *arguments],
            capture_output=True,
            text=True,
            env=environment(),
            cwd=ROOT,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done

    async def fill(self, data: bytes) -> None:
        async with connect(self.daemon.files.uri("data")) as nbd:
            for offset in range(0, SIZE // 2, len(data)):
                await nbd.write(offset, data)

    async def cut(self, *arguments: str) -> None:
        await self.fill(BEFORE)
        assert self("suspend", "db", "--tag", "nightly", *arguments) == 0
        await self.fill(AFTER)


@pytest.fixture
def ctl(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Operator:
    return Operator(start_daemon(make_files(volumes={"data": SIZE}, groups={"db": ["data"]})))


def client(*command: object) -> str:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    ).stdout


@contextmanager
def writing(uri: str) -> Iterator[None]:
    """Let fio write to the volume meanwhile; it meets no error."""
    command = ["fio", "--name=w", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", "--bs=4k"]
    with subprocess.Popen([*command, "--size=8m"], stdout=subprocess.DEVNULL) as fio:
        yield
        assert fio.wait(PATIENCE_SECONDS) == 0


async def test_clients_of_others_find_a_cut_and_copy_what_the_secondary_holds(
    ctl: Operator, tmp_path: Path
) -> None:
    await ctl.cut()
    files = ctl.daemon.files
    (row,) = json.loads(ctl.run("points", "db", "--json").stdout)["volumes"]
    listed = json.loads(client("nbdinfo", "--list", "--json", files.uri()))["exports"]
    assert [(each["export-name"], each["is_read_only"]) for each in listed] == [
        ("data", False),
        (row["export"], True),
    ]
    with writing(files.uri("data")):
        client("nbdcopy", files.uri("data@latest"), tmp_path / "latest.raw")
        client("qemu-img", "convert", "-f", "raw", "-O", "raw", row["uris"][0], tmp_path / "id.raw")
    for copy in ("latest.raw", "id.raw"):
        assert same_bytes(tmp_path / copy, files.secondary_of("data"))
        assert (tmp_path / copy).read_bytes()[: len(BEFORE)] == BEFORE
    mapped = json.loads(client("nbdinfo", "--map", "--json", files.uri("data@nightly")))
    assert [(each["offset"], each["type"]) for each in mapped] == [(0, 0), (SIZE // 2, 3)]


async def test_of_two_backups_at_once_none_gets_a_torn_copy(ctl: Operator, tmp_path: Path) -> None:
    """The second one suspends, copies and resyncs without a thought for the first."""
    await ctl.cut("--reader", "a")
    assert ctl("suspend", "db", "--tag", "b") == 5
    assert ctl("resync", "db", "--wait") == 5
    await ctl.fill(b"\x03" * 65536)
    client("nbdcopy", ctl.daemon.files.uri("data@nightly"), tmp_path / "copy.raw")
    assert set((tmp_path / "copy.raw").read_bytes()[: SIZE // 2]) == {1}
    assert ctl("resync", "db", "--reader", "a", "--wait") == 0
    assert same_bytes(ctl.daemon.files.primary("data"), ctl.daemon.files.secondary_of("data"))


async def test_a_backup_that_was_forced_out_does_not_end_well(ctl: Operator) -> None:
    await ctl.cut("--reader", "a")
    async with connect(ctl.daemon.files.uri("data@nightly")) as nbd:
        assert await nbd.read(0, 4) == BEFORE[:4]
        assert ctl("resync", "db") == 5
        assert ctl("resync", "db", "--force", "--wait") == 0
        with pytest.raises(OSError):  # ESHUTDOWN, or the connection is closed
            await nbd.read(0, 4)
    with pytest.raises(ConnectionError):
        await connect(ctl.daemon.files.uri("data@nightly"))
    assert ctl("resync", "db", "--reader", "a") == 5


async def test_a_killed_daemon_knows_its_readers_again(ctl: Operator) -> None:
    await ctl.cut("--reader", "a")
    ctl.daemon.kill()
    ctl.daemon.start()
    refused = ctl.run("resync", "db")
    assert (refused.returncode, "by a" in refused.stderr) == (5, True)
    assert ctl("release-reader", "db", "a") == 0
    assert ctl("resync", "db", "--wait") == 0


async def test_a_reload_that_would_take_a_secondary_from_its_reader_is_refused(
    ctl: Operator,
) -> None:
    await ctl.cut("--reader", "a")
    files = ctl.daemon.files
    files.secondary = False
    files.write()
    refused = ctl.run("reload")
    assert (refused.returncode, "is read at cut" in refused.stderr) == (5, True)
    assert ctl("release-reader", "db", "a") == 0
    assert ctl("reload") == 0
