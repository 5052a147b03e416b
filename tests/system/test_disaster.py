"""docs/disaster.md: each drill of the page, on a daemon that is started as users start it.

A test breaks something, then follows the page: its commands are run as they are written there, and
what they print is compared with what it shows (see tests/support/runbook.py). Then the data is
read, because a page may be true to the letter and lose a write. Each test is named by its drill.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import pytest

from duplexd.nbd_aio.connecting import connect
from tests.support.daemon import PATIENCE_SECONDS, ROOT, Daemon
from tests.support.fuse import faulty_disk
from tests.support.runbook import Runbook, Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.support.fuse import FaultyDisk

PAGE = Runbook(ROOT / "docs" / "disaster.md")
FOLLOWED: dict[str, str] = {}  # titles, by the name of the test that follows them
MIB = 1 << 20
Test = TypeVar("Test", bound=Callable[..., object])


class Drill:
    """One set with its daemon, and what happens to it. `title`: of the section that is followed."""

    def __init__(self, site: Site, daemon: Daemon, title: str) -> None:
        self.site = site
        self.daemon = daemon
        self.title = title

    # ------------------------------------------------------------------------ what the page says

    def follow(self, before: Mapping[str, Callable[[], object]] | None = None) -> None:
        """Do what the page says, from its first command to its last. `before` has what the text
        between two commands asks for, by the command that comes after it.
        """
        acts = dict(before or {})

        def run(command: str) -> str:
            acts.pop(command, lambda: None)()
            return self.run(command)

        PAGE.follow(self.title, run)
        assert not acts, f"the page has no such commands: {list(acts)}"

    def run(self, command: str) -> str:
        """A command of the page. The service manager's are done by the test."""
        program, _, rest = command.partition(" ")
        if program != "systemctl":
            return self.site.run(command)
        {"start": self.start, "stop": self.stop, "restart": self.restart}[rest.split()[0]]()
        return ""

    def start(self) -> None:
        self.daemon.start()

    def stop(self) -> None:
        assert self.daemon.stop() == 0

    def restart(self) -> None:
        self.stop()
        self.start()

    # ------------------------------------------------------------------------------ what happens

    def image(self, path: str) -> Path:
        return self.site.here(path)

    def lose(self, path: str) -> Path:
        """What is below a directory is not there any more, as without its mount; where it is."""
        directory = self.image(path)
        away = directory.with_name(f"{directory.name}.away")
        directory.rename(away)
        directory.mkdir()
        return away

    def mount_again(self, path: str, away: Path) -> None:
        directory = self.image(path)
        directory.rmdir()
        away.rename(directory)

    def empty(self, path: str) -> None:
        """A new file of the same size in the place of an image."""
        image = self.image(path)
        size = image.stat().st_size
        image.unlink()
        image.touch()
        os.truncate(image, size)

    # --------------------------------------------------------------------------------- a client

    def client(self, volume: str, *commands: str) -> subprocess.Popen[str]:
        """One that does these commands of qemu-io."""
        options = [word for command in commands for word in ("-c", command)]
        return subprocess.Popen(
            ["qemu-io", "-f", "raw", *options, self.site.uri(volume)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _client(self, volume: str, *commands: str) -> subprocess.CompletedProcess[str]:
        with self.client(volume, *commands) as process:
            out, err = process.communicate(timeout=PATIENCE_SECONDS)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def write(self, volume: str, pattern: int, offset: int = 0) -> None:
        """A client writes 1 MiB, and flushes."""
        done = self._client(volume, f"write -P {pattern} {offset} 1M", "flush")
        assert (done.returncode, done.stderr, "failed" in done.stdout) == (0, "", False), done

    def reads(self, volume: str, pattern: int, offset: int = 0) -> None:
        """A client reads that 1 MiB."""
        done = self._client(volume, f"read -P {pattern} {offset} 1M")
        assert (done.returncode, done.stderr, "failed" in done.stdout) == (0, "", False), done

    def error_of(self, volume: str, command: str) -> str:
        """What a client is told; empty if there is no error."""
        done = self._client(volume, command)
        text = done.stdout + done.stderr
        return text if done.returncode or "failed" in text or done.stderr else ""

    def equal(self) -> None:
        """Both legs of all pairs hold the same."""
        printed = self.run("duplexctl verify database")
        assert printed.count("the legs are equal") == 2, printed


class Failing(NamedTuple):
    """A set with a disk (of primaries, of secondaries, of the journal) that fails when the test
    says so.
    """

    drill: Drill
    disk: FaultyDisk

    def replace(self) -> None:
        """A new, empty disk at the place of the failed one."""
        self.disk.lift()
        for image in self.disk.below.iterdir():
            image.unlink()


Begin = Callable[[], Drill]


@pytest.fixture
def begin(
    tmp_path: Path, start_daemon: Callable[..., Daemon], request: pytest.FixtureRequest
) -> Begin:
    """Starts the set of the page, with something in it."""

    def begin() -> Drill:
        site = Site(tmp_path, {}, configuration=PAGE.configuration).write()
        drill = Drill(site, start_daemon(site), FOLLOWED[request.function.__name__])
        drill.write("tables", 1)
        drill.write("wal", 1)
        return drill

    return begin


@pytest.fixture
def drill(begin: Begin) -> Drill:
    return begin()


@pytest.fixture
def failing(tmp_path: Path, begin: Begin) -> Iterator[Failing]:
    (tmp_path / "srv").mkdir()
    with faulty_disk(tmp_path / "srv" / "fast") as disk:
        drill = begin()
        yield Failing(drill, disk)
        disk.lift()
        drill.daemon.kill()


@pytest.fixture
def mirror(tmp_path: Path, begin: Begin) -> Iterator[Failing]:
    (tmp_path / "srv").mkdir()
    with faulty_disk(tmp_path / "srv" / "mirror") as disk:
        drill = begin()
        yield Failing(drill, disk)
        disk.lift()
        drill.daemon.kill()


@pytest.fixture
def journal(tmp_path: Path, begin: Begin) -> Iterator[Failing]:
    (tmp_path / "var").mkdir()
    with faulty_disk(tmp_path / "var") as disk:
        drill = begin()
        yield Failing(drill, disk)
        disk.lift()
        drill.stop()


def of(title: str) -> Callable[[Test], Test]:
    """Names the drill of the page that a test follows."""

    def follows(test: Test) -> Test:
        FOLLOWED[test.__name__] = title
        return test

    return follows


def test_every_drill_of_the_page_is_a_test() -> None:
    assert sorted(PAGE.drills) == sorted(FOLLOWED.values())


def test_every_drill_says_what_is_lost() -> None:
    assert not [title for title in PAGE.drills if "**Lost:**" not in PAGE.sections[title]]


# ----------------------------------------------------------------- a disk that is not there


@of("The secondary's disk is dead after a reboot")
def test_a_secondary_disk_is_dead_after_a_reboot(drill: Drill) -> None:
    drill.stop()
    away = drill.lose("/srv/mirror")
    drill.start()
    drill.write("tables", 2)
    drill.reads("wal", 1)
    mount = {"duplexctl resync database --wait": lambda: drill.mount_again("/srv/mirror", away)}
    drill.follow(before=mount)
    drill.reads("tables", 2)
    drill.equal()


@of("The secondary's disk is replaced")
def test_a_secondary_disk_is_replaced(drill: Drill) -> None:
    drill.stop()
    drill.lose("/srv/mirror")
    drill.start()
    drill.write("tables", 2)
    drill.follow()
    drill.reads("tables", 2)
    drill.equal()


@of("The primary's disk is dead after a kill or a power cut")
def test_a_primary_disk_is_dead_after_a_kill(drill: Drill) -> None:
    drill.write("tables", 2)
    drill.daemon.kill()
    drill.lose("/srv/fast")
    drill.start()
    drill.reads("tables", 2)
    drill.follow()
    drill.reads("tables", 2)
    drill.reads("wal", 1)
    drill.equal()


# ----------------------------------------------------------------- a disk that begins to fail


@of("The secondary's disk dies while the daemon runs")
def test_a_secondary_disk_dies_while_the_daemon_runs(mirror: Failing) -> None:
    drill = mirror.drill
    mirror.disk.fail("write")
    drill.write("tables", 2)
    drill.follow(
        {"truncate -s 16MiB /srv/mirror/tables.img /srv/mirror/wal.img": mirror.replace},
    )
    drill.reads("tables", 2)
    drill.reads("wal", 1)
    drill.equal()


@of("The primary's disk dies while the pair is DUPLEX")
async def test_a_primary_disk_dies_while_the_pair_is_duplex(failing: Failing) -> None:
    drill = failing.drill
    async with (
        await connect(drill.site.uri("tables")) as tables,
        await connect(drill.site.uri("wal")) as wal,
    ):
        failing.disk.fail()
        for client in (tables, wal):  # no error, and the connection stays
            await client.write(0, b"\2" * MIB)
            await client.flush()
            assert await client.read(0, MIB) == b"\2" * MIB
        # The connections are still there: the status shows one client of each.
        await asyncio.to_thread(
            drill.follow,
            {"truncate -s 16MiB /srv/fast/tables.img /srv/fast/wal.img": failing.replace},
        )
    drill.reads("tables", 2)
    drill.reads("wal", 2)
    drill.equal()


@of("The primary's disk dies while the pair is SUSPENDED")
def test_a_primary_disk_dies_while_the_pair_is_suspended(failing: Failing) -> None:
    drill = failing.drill
    drill.run("duplexctl suspend database --tag nightly")
    drill.write("tables", 2)
    failing.disk.fail()
    for volume in ("tables", "wal"):
        assert "Input/output error" in drill.error_of(volume, "write -P 9 8M 1M")
        assert "Input/output error" in drill.error_of(volume, "read 0 1M")
    drill.follow()
    drill.reads("tables", 2)
    drill.reads("wal", 1)
    kept = drill.image("/srv/spare/tables.img").read_bytes()
    assert kept[:MIB] == b"\1" * MIB  # as of the cut
    drill.write("tables", 3)
    failing.replace()
    drill.run("truncate -s 16MiB /srv/fast/tables.img /srv/fast/wal.img")
    drill.run("duplexctl resync database --wait")
    drill.reads("tables", 3)
    drill.equal()


@of("The journal no longer reaches back to the cut")
def test_the_journal_no_longer_reaches_back(failing: Failing) -> None:
    drill = failing.drill
    drill.run("duplexctl suspend database --tag nightly")
    for number in range(96):
        drill.write("tables", 2 + number, (number % 16) * MIB)
    failing.disk.fail()
    assert "Input/output error" in drill.error_of("tables", "write -P 9 0 1M")
    assert "Input/output error" in drill.error_of("wal", "write -P 9 0 1M")
    drill.follow()
    drill.reads("tables", 1)


# -------------------------------------------------------------- images that are other images


@of("The images were exchanged by mistake")
def test_images_were_exchanged(drill: Drill) -> None:
    drill.run("duplexctl suspend database --tag nightly")
    drill.write("tables", 2)
    drill.stop()
    one, other = (drill.image(f"/srv/{disk}/tables.img") for disk in ("fast", "mirror"))
    between = one.with_suffix(".x")
    one.rename(between)
    other.rename(one)
    between.rename(other)
    drill.start()
    drill.follow()
    drill.reads("tables", 2)
    assert drill.image("/srv/fast/tables.img").read_bytes()[:MIB] == b"\1" * MIB
    drill.run("duplexctl resync database --wait")
    drill.reads("tables", 2)
    drill.equal()


@of("A secondary was emptied")
def test_a_secondary_was_emptied(drill: Drill) -> None:
    drill.stop()
    drill.empty("/srv/mirror/tables.img")
    drill.start()
    drill.follow()
    drill.reads("tables", 1)


@of("A primary was emptied")
def test_a_primary_was_emptied(drill: Drill) -> None:
    drill.stop()
    drill.empty("/srv/fast/tables.img")
    drill.start()
    drill.reads("tables", 1)
    drill.follow()
    drill.reads("tables", 1)
    drill.equal()


@of("The configuration names a wrong primary")
def test_the_configuration_names_a_wrong_primary(drill: Drill) -> None:
    config = drill.site.config
    right = config.read_text()
    config.with_suffix(".toml.right").write_text(right)
    other = drill.image("/srv/spare/other.img")
    other.write_bytes(b"\xee" * 16 * MIB)
    config.write_text(right.replace(str(drill.image("/srv/fast/tables.img")), str(other)))
    assert config.read_text() != right
    drill.restart()
    drill.follow()
    assert other.read_bytes() == b"\xee" * 16 * MIB
    drill.reads("tables", 1)
    drill.equal()


@of("An image was restored in place")
def test_an_image_was_restored_in_place(drill: Drill) -> None:
    backup = drill.image("/srv/mirror/tables.img").read_bytes()
    drill.image("/srv/spare/tables.img").write_bytes(backup)
    drill.write("tables", 2)
    drill.stop()
    drill.image("/srv/fast/tables.img").write_bytes(backup)
    drill.start()
    drill.reads("tables", 2)
    drill.follow()
    drill.reads("tables", 1)
    drill.equal()


@of("A suspended volume was restored in place")
def test_a_suspended_volume_was_restored_in_place(drill: Drill) -> None:
    drill.run("duplexctl suspend database --tag nightly")
    drill.write("tables", 2)
    drill.stop()
    shutil.copyfile(drill.image("/srv/mirror/tables.img"), drill.image("/srv/fast/tables.img"))
    drill.start()
    assert drill.error_of("tables", "read 0 4k")
    drill.reads("wal", 1)
    drill.follow()
    drill.reads("tables", 1)
    drill.equal()


@of("A volume is set back to a backup")
def test_a_volume_is_set_back_to_a_backup(drill: Drill) -> None:
    drill.image("/srv/spare/tables.img").write_bytes(b"\5" * 16 * MIB)
    drill.follow()
    drill.reads("tables", 5)


# ----------------------------------------------------------------------- the state directory


@of("The state directory is an older copy")
def test_the_state_directory_is_an_older_copy(drill: Drill) -> None:
    drill.stop()
    state = drill.site.state_dir
    shutil.copytree(state, state.with_suffix(".copy"))
    drill.start()
    drill.write("tables", 2)
    drill.stop()
    state.rename(state.with_suffix(".right"))
    state.with_suffix(".copy").rename(state)
    drill.start()
    drill.follow()
    drill.reads("tables", 2)
    drill.equal()


@of("The journal's disk is lost")
@pytest.mark.parametrize("ended", ["stopped", "killed"])
def test_the_journals_disk_is_lost(drill: Drill, ended: str) -> None:
    drill.write("tables", 2)
    if ended == "stopped":
        drill.stop()
    else:
        drill.daemon.kill()
    shutil.rmtree(drill.site.state_dir)
    drill.start()
    assert drill.error_of("tables", "read 0 4k")
    drill.follow()
    drill.reads("tables", 2)
    drill.reads("wal", 1)


@of("The journal's disk is full")
def test_the_journals_disk_is_full(journal: Failing) -> None:
    drill, disk = journal
    disk.fill()
    errors = (drill.error_of("tables", f"write -P 2 {number % 16}M 1M") for number in range(96))
    assert "No space left" in next(filter(None, errors), "")
    drill.follow()
    drill.reads("wal", 1)
    disk.fill(None)
    drill.daemon.wait_log('"event": "journal-has-room"')
    drill.write("tables", 3)
    drill.reads("tables", 3)


@of("The journal's disk hangs")
def test_the_journals_disk_hangs(journal: Failing) -> None:
    drill, disk = journal
    hang = disk.hang("write")
    with drill.client("tables", "write -P 2 0 1M") as writing:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while drill.daemon.request("GET", "/readyz")[0] != HTTPStatus.SERVICE_UNAVAILABLE:
            assert (writing.poll(), time.monotonic() < deadline) == (None, True)
        drill.follow()
        drill.reads("wal", 1)
        assert drill.daemon.request("GET", "/healthz")[0] == HTTPStatus.OK
        hang.lift()
        assert writing.wait(PATIENCE_SECONDS) == 0
    drill.reads("tables", 2)
    drill.daemon.wait_ready()


@of("The machine is lost, and the set is moved")
def test_the_set_is_moved(drill: Drill, request: pytest.FixtureRequest) -> None:
    drill.write("tables", 2)
    drill.stop()
    elsewhere = drill.site.directory / "elsewhere"
    elsewhere.mkdir()
    for name in ("var", "srv"):
        old = drill.site.directory / name
        subprocess.run(["cp", "-a", str(old), str(elsewhere)], check=True)
        old.rename(drill.site.directory / f"lost-{name}")
    site = Site(elsewhere, {}, configuration=PAGE.configuration).write()
    moved = Drill(site, Daemon(site), drill.title)
    request.addfinalizer(moved.daemon.kill)
    moved.follow()
    moved.reads("tables", 2)
    moved.equal()
    assert '"event": "copied"' not in moved.daemon.log()
    moved.stop()
