"""docs/recipes, done: the blocks of each page are run as they are written there, on a daemon.

Each drill passes on what is whole, and fails on what is not. Needs root.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.nbd_aio.connecting import connect
from tests.support.daemon import ROOT
from tests.support.postgres import new_file_systems, wait_for
from tests.support.recipes import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.support.daemon import Daemon, DaemonFiles

    Serve = Callable[[Mapping[str, str], str], Daemon]

PAGES = {"postgresql", "mariadb", "libvirt", "borg-restic", "cron"}


@pytest.fixture
def above() -> Iterator[Path]:
    """A directory that every user may pass through; sockets have short names there."""
    assert os.geteuid() == 0, "these tests mount file systems; run them as root"
    with tempfile.TemporaryDirectory(prefix="duplexd-r-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
def serve(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Serve:
    def with_volumes(volumes: Mapping[str, str], group: str) -> Daemon:
        files = make_files(volumes=volumes, groups={group: list(volumes)}, journal_size="64MiB")
        return start_daemon(files)

    return with_volumes


@contextmanager
def mounted(daemon: Daemon, above: Path, *volumes: str, new: bool = True) -> Iterator[None]:
    """File systems of volumes, at directories of their names."""
    with new_file_systems({name: daemon.files.uri(name) for name in volumes}, above, new):
        yield


def last_drills(daemon: Daemon) -> list[Any]:
    """Of all volumes: the outcome and the exit code."""
    volumes = daemon.request("GET", "/v1/status")[1]["volumes"]
    return [(row["last_drill"]["outcome"], row["last_drill"]["exit_code"]) for row in volumes]


def duplex_again(daemon: Daemon) -> None:
    """The resync that a drill or a backup began has ended."""

    def is_duplex() -> bool:
        rows = daemon.request("GET", "/v1/status")[1]["volumes"]
        return {row["state"] for row in rows} == {"DUPLEX"}

    wait_for("the resync", is_duplex)


LONG = pytest.mark.long  # software that costs 200 MB to install


@LONG
@pytest.mark.parametrize(
    ("setting", "asked"),
    [
        ("[mariadb-VERSION]\ndatadir=/srv/live", "/srv/live"),
        ("[client-server]\ndatadir=/srv/live", "/srv/live"),
        ("[mysqld]\nlog_bin_index=/srv/log/bin.index", "/srv/log"),
        ("[mysqld]\nrelay-log=/srv/relay/bin", "/srv/relay"),
        ("[mysqld]\ninnodb_data_file_path=/srv/raw/ibdata1:12M:autoextend", "/srv/raw"),
    ],
)
def test_a_drill_of_mariadb_asks_of_all_that_its_server_would_write_to(
    tmp_path: Path, setting: str, asked: str
) -> None:
    said = subprocess.run(["mariadbd", "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"Ver ([0-9]+\.[0-9]+)", said.stdout)
    assert version is not None
    settings = tmp_path / "my.cnf"
    settings.write_text(setting.replace("VERSION", version[1]) + "\n")
    refuse = f'on_clone() {{ [ "$1" != {asked} ] || {{ echo refused; exit 1; }}; }}'
    refuse += "; chown() { exit 3; }"  # before a server is started
    script = ROOT / "configs" / "drills" / "check-mariadb.sh"
    run = f"{refuse}; export -f on_clone chown; exec bash {script} --defaults-file={settings}"
    done = subprocess.run(["bash", "-c", run], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "refused\n"), done.stderr


def test_every_page_is_tested_here() -> None:
    assert {path.stem for path in (ROOT / "docs" / "recipes").glob("*.md")} == PAGES


# ------------------------------------------------------------------------------------ databases


class PostgreSql:
    """The database of the page, and what its application does."""

    settings = "-c shared_buffers=16MB -c max_wal_size=48MB -c min_wal_size=32MB"

    def __init__(self, recipe: Recipe, above: Path) -> None:
        self._recipe = recipe
        self._above = above
        self._data = above / "data" / "db"

    def _as_owner(self, command: str) -> str:
        """Of a program of the newest version there is."""
        owner = "cd /; runuser -u postgres -- $(ls -d /usr/lib/postgresql/*/bin | tail -n 1)/"
        return self._recipe.do(owner + command).stdout

    def start(self) -> None:
        options = f"-k {self._above} -c listen_addresses='' {self.settings}"
        log = self._above / "server.log"
        log.touch()
        log.chmod(0o666)
        # A backup has the file of the server that ran then, which may have ended and not be reaped
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        start = f'pg_ctl -D {self._data} -w -l {log} -o "{options}" start >/dev/null'
        self._as_owner(f"{start} || {{ cat {log} >&2; exit 1; }}")

    def stop(self) -> None:
        self._as_owner(f"pg_ctl -D {self._data} -w -m immediate stop")

    def ask(self, query: str, database: str = "app") -> str:
        return self._as_owner(f'psql -qAtX -h {self._above} -d {database} -c "{query}"').strip()

    def fill(self) -> None:
        self.ask("create database app", "postgres")
        self.ask("create table orders as select generate_series(1, 5000) id")

    def more(self) -> None:
        self.ask("insert into orders values (0)")

    def empty(self) -> None:
        self.ask("delete from orders")

    def orders(self) -> int:
        return int(self.ask("select count(*) from orders"))

    def as_the_page_wants_it(self) -> None:
        """Its settings are those of PostgreSQL; its socket lies beside its volumes."""
        shutil.chown(self._above, "postgres")


class MariaDb:
    """The same of MariaDB. Its settings are those of the page, with a small log."""

    def __init__(self, recipe: Recipe, above: Path) -> None:
        self._recipe = recipe
        self._socket = above / "socket"
        self._pid = above / "pid"
        self._above = above

    def as_the_page_wants_it(self) -> None:
        text = self._recipe.block("ini")
        small = "innodb_log_file_size = 8M\ninnodb_buffer_pool_size = 16M\n"
        (self._above / "my.cnf").write_text(text + small)

    def start(self) -> None:
        self._above.chmod(0o777)
        self._recipe.do(
            f"mariadbd --defaults-file={self._above}/my.cnf --user=mysql --skip-networking"
            f" --socket={self._socket} --pid-file={self._pid} --log-error={self._above}/server.log"
            " >/dev/null 2>&1 &"
        )
        ping = f"mariadb-admin --no-defaults --socket={self._socket} ping >/dev/null"
        self._recipe.do(f"until {ping}; do sleep 0.1; done")

    def stop(self) -> None:
        self._recipe.do(
            f"kill -9 $(cat {self._pid}); while pgrep -F {self._pid} >/dev/null; do sleep 0.1;"
            f" done; rm {self._pid}"
        )

    def ask(self, query: str) -> str:
        command = f"mariadb --no-defaults --socket={self._socket} -N -e"
        return self._recipe.do(f'{command} "{query}"').stdout.strip()

    def fill(self) -> None:
        self.ask("create database app; create table app.orders (id int) engine=innodb")
        self.ask("insert into app.orders select seq from app.seq_1_to_5000")

    def more(self) -> None:
        self.ask("insert into app.orders values (0)")

    def empty(self) -> None:
        self.ask("delete from app.orders")

    def orders(self) -> int:
        return int(self.ask("select count(*) from app.orders"))


DATABASES: dict[str, tuple[type[PostgreSql | MariaDb], str, tuple[str, str], str]] = {
    "postgresql": (PostgreSql, "/srv/pg", ("data", "wal"), "initdb"),
    "mariadb": (MariaDb, "/srv/db", ("data", "log"), "install-db"),
}


@pytest.mark.parametrize("name", ["postgresql", pytest.param("mariadb", marks=LONG)])
def test_a_database_is_backed_up_drilled_and_restored_as_its_page_says(
    serve: Serve, above: Path, name: str
) -> None:
    kind, place, volumes, makes = DATABASES[name]
    daemon = serve(dict.fromkeys(volumes, "192MiB"), "db")
    site = above / "site"
    site.mkdir(mode=0o755)
    (above / "backup").mkdir()
    places = {place: site, "/srv/backup": above / "backup", "/etc/mysql/my.cnf": site / "my.cnf"}
    page = Recipe(name, daemon, above, places)
    assert page.block("toml") == f"[groups.db]\nvolumes = {json.dumps(list(volumes))}\n"
    database = kind(page, site)
    database.as_the_page_wants_it()
    with ExitStack() as stack:
        stack.enter_context(mounted(daemon, site, *volumes))
        page.sh(makes)
        database.start()
        stack.callback(database.stop)
        database.fill()
        page.do("sync -f " + " ".join(str(site / volume) for volume in volumes))  # what made it
        page.sh("duplexctl backup")
        duplex_again(daemon)
        database.more()
        (drill,) = [text for text in page.left if "duplexctl drill" in text]
        done = page.sh("duplexctl drill")
        assert last_drills(daemon) == [("passed", 0)] * 2, done.stderr
        assert database.orders() == 5001  # the drill has touched nothing of it
        duplex_again(daemon)
        without = drill.replace(f" {volumes[1]}={site}/{volumes[1]}", "")
        failing(page, daemon, without, "is not on a clone")
        duplex_again(daemon)
        database.empty()
        failing(page, daemon, drill, "not true, but ")
        duplex_again(daemon)
    page.sh("qemu-img convert")
    with ExitStack() as stack:
        stack.enter_context(mounted(daemon, site, *volumes, new=False))
        database.start()
        stack.callback(database.stop)
        assert database.orders() == 5000  # those of the backup
    assert page.left == []


def failing(page: Recipe, daemon: Daemon, drill: str, why: str) -> None:
    """A drill that has to fail, and says why."""
    done = page.do(f"! {{ {drill}\n}}")
    assert why in done.stderr
    assert last_drills(daemon) == [("failed", 1)] * 2


# ----------------------------------------------------------------------------- backup programs

SOME, OTHER = b"\x01" * 65536, b"\x02" * 65536


async def write(daemon: Daemon, data: bytes, volume: str = "data") -> None:
    async with connect(daemon.files.uri(volume)) as client:
        await client.write(0, data)
        await client.flush()


async def content(daemon: Daemon, volume: str = "data") -> bytes:
    async with connect(daemon.files.uri(volume)) as client:
        return await client.read(0, len(SOME))


STORES = {
    "borg": ("borg init", "borg list", {"BORG_BASE_DIR": "base"}),
    "restic": ("restic init", "restic dump", {"RESTIC_CACHE_DIR": "cache"}),
}


@pytest.mark.parametrize("name", ["borg", pytest.param("restic", marks=LONG)])
async def test_a_program_stores_cuts_and_gives_the_newest_back(
    serve: Serve, above: Path, name: str
) -> None:
    makes, restores, own = STORES[name]
    daemon = serve({"data": "4MiB", "wal": "1MiB"}, "db")
    store = above / "store-cut"
    page = Recipe("borg-restic", daemon, above, {"/srv": above})
    page.environment |= {key: str(above / value) for key, value in own.items()}
    store.write_text(page.block("bash", name))
    store.chmod(0o755)
    (once,) = [text for text in page.left if makes in text]
    page.sh(makes)
    exports = "\n".join(line for line in once.splitlines() if line.startswith("export"))
    for data in (OTHER, SOME):
        await write(daemon, data)
        await asyncio.to_thread(page.do, f"{exports}\nduplexctl backup db -- {store}")
        await asyncio.to_thread(duplex_again, daemon)
    await write(daemon, OTHER)
    (restore,) = [text for text in page.left if restores in text]
    await asyncio.to_thread(page.do, f"{exports}\n{restore}")
    assert await content(daemon) == SOME


# ------------------------------------------------------------------------------------------ cron


def test_cron_takes_the_page_and_each_line_does_what_it_says(serve: Serve, above: Path) -> None:
    daemon = serve({"data": "1MiB", "wal": "1MiB"}, "db")
    check = above / "drill-db"
    check.write_text('#!/bin/sh\nnbdinfo --size "${DUPLEXD_URIS##* }"\n')
    check.chmod(0o755)
    (above / "backup").mkdir()
    places = {"/srv/backup": above / "backup", "/usr/local/sbin/drill-db": check}
    page = Recipe("cron", daemon, above, places)
    table = page.block("crontab")
    lines = [line for line in table.splitlines() if line and not line.startswith(("#", "MAILTO"))]
    jobs = [re.split(r" +", line, maxsplit=6) for line in lines if "=" not in line.split()[0]]
    own = above / "table"
    own.write_text("".join(" ".join([*job[:5], job[6]]) + "\n" for job in jobs))
    page.do(f"crontab -n {own}")  # as a table of one user, which cron checks without taking it
    commands = [job[6] for job in jobs if "health" not in job[6]]
    assert "this is a full backup" in page.do(commands[0]).stderr
    duplex_again(daemon)
    for command in commands:
        done = page.do(command)
        assert (done.stdout, done.stderr) == ("", ""), command
        duplex_again(daemon)
    assert last_drills(daemon) == [("passed", 0)] * 2
    (health,) = [job[6] for job in jobs if "health" in job[6]]
    assert "one-file-system" in page.do(f"{health} --json || true").stdout


# --------------------------------------------------------------------------------------- libvirt

DOMAIN = """
<domain type='qemu'>
  <name>guest</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {disks}
  </devices>
</domain>
"""
AS_NOBODY = "setpriv --reuid=nobody --regid=nogroup --clear-groups"


@pytest.fixture
def libvirt(above: Path) -> Iterator[dict[str, str]]:
    """A libvirtd of a user without rights: the environment of its virsh."""
    home = above / "home"
    home.mkdir()
    shutil.chown(home, "nobody")
    own = {"HOME": str(home)} | {
        f"XDG_{kind}": str(home / kind) for kind in ("RUNTIME_DIR", "CONFIG_HOME", "CACHE_HOME")
    }
    with subprocess.Popen(
        [*AS_NOBODY.split(), "/usr/sbin/libvirtd", "--timeout=600"],
        env=os.environ | own,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            wait_for("libvirtd", (home / "RUNTIME_DIR" / "libvirt" / "libvirt-sock").exists)
            yield own
        finally:
            server.terminate()


@pytest.mark.long
async def test_a_guest_of_libvirt_is_backed_up_looked_into_and_restored(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    above: Path,
    libvirt: dict[str, str],
) -> None:
    disks = {"root": "1MiB", "data": "1MiB"}
    (above / "backup").mkdir()
    (above / "d").mkdir(mode=0o711)
    files = make_files(disks, above / "d", groups={"vm": list(disks)})
    text = files.config.read_text()
    files.config.write_text(text.replace("[nbd]\n", '[nbd]\ngroup = "nogroup"\n'))
    daemon = start_daemon(files)
    for volume in disks:
        await write(daemon, SOME, volume)
    places = {"/srv/backup": above / "backup", "/srv/look": above / "look"}
    page = Recipe("libvirt", daemon, above, places)
    page.environment |= libvirt
    page.program("virsh", f'exec {AS_NOBODY} /usr/bin/virsh -q -c qemu:///session "$@"')
    domain = above / "guest.xml"
    domain.write_text(DOMAIN.format(disks=page.block("xml")))
    await asyncio.to_thread(page.do, f"virsh define {domain}\nvirsh start guest")
    try:
        assert connected(daemon) == set(disks)
        await asyncio.to_thread(page.sh, "duplexctl backup")
        for volume in disks:
            await write(daemon, OTHER, volume)
        await asyncio.to_thread(page.sh, "qemu-img create", "virsh destroy")
        for volume in disks:
            assert await content(daemon, volume) == SOME
            look = above / "look" / f"{volume}.qcow2"
            page.do(f"qemu-io -f qcow2 -c 'read -P 1 0 64k' -c 'write -P 9 0 64k' {look}")
        assert connected(daemon) == set(disks)
        await asyncio.to_thread(page.do, f"duplexctl backups {above}/backup/vm --check")
    finally:
        page.do("virsh destroy guest; virsh undefine guest")
    assert page.left == []


def connected(daemon: Daemon) -> set[str]:
    """The volumes that a client has open."""
    rows = daemon.request("GET", "/v1/status")[1]["volumes"]
    return {row["name"] for row in rows if row["connections"]}
