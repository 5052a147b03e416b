"""A real PostgreSQL on two volumes: its tables on one, its write-ahead log on the other.

ext4 lies on a loop device of nbdfuse's file, which needs no NBD module in the kernel. Needs root.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from duplexd.known import known
from tests.support.daemon import PATIENCE_SECONDS
from tests.support.fuse.mounting import unmount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PLACES = ("data", "wal")
SETTINGS = """
listen_addresses = ''
shared_buffers = 16MB
max_wal_size = 16MB
min_wal_size = 5MB
checkpoint_timeout = 30s
max_connections = 20
"""
# Of pgbench: each transaction adds the same to a row of each table, and a line to the history.
BALANCES = (
    "SELECT (SELECT sum(abalance) FROM pgbench_accounts) ="
    " coalesce((SELECT sum(delta) FROM pgbench_history), 0)"
    " AND (SELECT sum(tbalance) FROM pgbench_tellers) ="
    " (SELECT sum(bbalance) FROM pgbench_branches)"
)
INSERT = "INSERT INTO acknowledged VALUES (%d) RETURNING number;\n"
_MKFS = ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]


class DamagedError(AssertionError):
    """A database that was restored is not what was promised."""


def tool(name: str) -> str:
    """A program that Debian keeps out of the search path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    assert found, f"there is no {name}: run `make apt` (package postgresql)"
    return str(found[-1])


def run(*command: str) -> str:
    """What it writes. Raises DamagedError with what it complains of."""
    done = subprocess.run(
        command, capture_output=True, text=True, cwd="/", timeout=PATIENCE_SECONDS, check=False
    )
    if done.returncode:
        raise DamagedError(f"{' '.join(command)}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
    return done.stdout


def as_postgres(name: str, *arguments: str) -> list[str]:
    """A command of the user postgres, who runs the database."""
    return ["runuser", "-u", "postgres", "--", tool(name), *arguments]


# ------------------------------------------------------------------------------- file systems


@contextmanager
def new_file_systems(uris: Mapping[str, str], above: Path, make: bool = True) -> Iterator[None]:
    """On volumes, mounted below `above` by the names of `uris`. Without `make`, those that they
    have.
    """
    with ExitStack() as stack:
        for name, uri in uris.items():
            fuse = above / f"fuse-{name}"
            fuse.mkdir(exist_ok=True)
            nbdfuse = ["nbdfuse", str(fuse / "nbd"), uri]
            server = stack.enter_context(subprocess.Popen(nbdfuse, stdin=subprocess.DEVNULL))
            # it would wait for a loop device, and that for any mount name space that has a copy
            stack.callback(server.kill)
            stack.callback(unmount, str(fuse))
            wait_for(f"nbdfuse of {name}", (fuse / "nbd").exists)
            if make:
                run(*_MKFS, str(fuse / "nbd"))
            stack.enter_context(mounted(fuse / "nbd", above / name))
        yield


@contextmanager
def mounted(image: Path, point: Path) -> Iterator[None]:
    """A file with a file system."""
    point.mkdir(exist_ok=True)
    run("mount", "-o", "loop", str(image), str(point))
    try:
        yield
    finally:
        wait_for(f"the end of {point}", lambda: not _call("umount", str(point)))


def _call(*command: str) -> int:
    return subprocess.run(command, capture_output=True, check=False).returncode


def wait_for(what: str, come: object) -> None:
    """Until `come()` is true."""
    assert callable(come)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not come():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.02)


# ---------------------------------------------------------------------------------- a database


class Database:
    """In the directories `data` and `wal` below `above`; its socket and log are in `above`."""

    def __init__(self, above: Path) -> None:
        self.above = above
        self.data = above / "data" / "db"
        self.log = above / "log"

    def make(self) -> None:
        """A new one, that checks its pages, with the tables of pgbench and one of numbers."""
        for place in PLACES:
            shutil.chown(self.above / place, "postgres")
        wal = str(self.above / "wal" / "wal")
        options = ["--auth=trust", "--data-checksums", "--wal-segsize=1", "--waldir", wal]
        run(*as_postgres("initdb", "-D", str(self.data), *options))
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(SETTINGS)
            file.flush()
            os.fsync(file.fileno())  # nobody else does
        with self.running():
            run(*as_postgres("pgbench", "-q", "-i", "-h", str(self.above), "postgres"))
            self.ask("CREATE TABLE acknowledged (number integer PRIMARY KEY)")
            self.ask("CREATE EXTENSION amcheck")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Raises DamagedError if it does not start."""
        options = ["-D", str(self.data), "-w"]
        start = ["-l", str(self.log), "-o", f"-k {self.above}", "start"]
        try:
            run(*as_postgres("pg_ctl", *options, *start))
        except DamagedError as error:
            raise DamagedError(f"{error}: {self.log.read_text()[-4000:]}") from None
        try:
            yield
        finally:
            run(*as_postgres("pg_ctl", *options, "-m", "fast", "stop"))

    def ask(self, query: str) -> str:
        """What a query returns."""
        return run(*self.psql("-c", query)).strip()

    def psql(self, *arguments: str) -> list[str]:
        """A command that talks to it."""
        return as_postgres("psql", "-qAtX", "-h", str(self.above), *arguments, "postgres")

    def adopt(self) -> None:
        """What a restored one needs where the first is still running."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        (self.data / "pg_wal").unlink()
        (self.data / "pg_wal").symlink_to(self.above / "wal" / "wal")

    def check(self, last: int) -> int:
        """Recover it and look at all of it; `last` and all numbers before have to be there. Returns
        how many are. Raises DamagedError.
        """
        with self.running():
            if "automatic recovery in progress" not in self.log.read_text():
                raise DamagedError(f"it did not recover: {self.log.read_text()}")
            found, newest = map(
                int,
                self.ask("SELECT count(*), coalesce(max(number), 0) FROM acknowledged").split("|"),
            )
            if found != newest or newest < last:
                raise DamagedError(f"{found} numbers up to {newest}; acknowledged were {last}")
            if self.ask(BALANCES) != "t":
                raise DamagedError("the balances of pgbench do not add up")
            run(*as_postgres("pg_amcheck", "-h", str(self.above), "--heapallindexed", "postgres"))
        run(*as_postgres("pg_checksums", "--check", "-D", str(self.data)))
        return found


class Acknowledged(NamedTuple):
    """A number, and when its commit was acknowledged."""

    number: int
    time: float


class Committer:
    """A client that commits one number after the other, and notes those that were acknowledged."""

    def __init__(self, database: Database) -> None:
        self.noted: list[Acknowledged] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._commit, args=(database.psql(),))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(PATIENCE_SECONDS)

    def _commit(self, psql: list[str]) -> None:
        # psql is to write its answers at once, although to a pipe
        command = [*psql[:4], "stdbuf", "-oL", *psql[4:]]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd="/"
        ) as process:
            asked, answers = known(process.stdin, "a pipe"), known(process.stdout, "a pipe")
            for number in itertools.count(1):
                if self._ending.is_set():
                    break
                asked.write(INSERT % number)
                if answers.readline().strip() != str(number):
                    break
                self.noted.append(Acknowledged(number, time.time()))
            asked.close()

    def more(self, count: int) -> None:
        """Until so many more were acknowledged."""
        wanted = len(self.noted) + count
        wait_for(f"{wanted} commits", lambda: len(self.noted) >= wanted)

    def before(self, when: float) -> int:
        """The last one of before that time."""
        return max((each.number for each in self.noted if each.time < when), default=0)


@contextmanager
def pgbench(database: Database) -> Iterator[None]:
    """Runs meanwhile."""
    options = ["-n", "-c", "2", "-T", "3600", "-R", "100", "-h", str(database.above)]
    process = subprocess.Popen(
        as_postgres("pgbench", *options, "postgres"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    try:
        yield
        assert process.poll() is None, "pgbench has met an error"
    finally:
        process.terminate()
        process.wait()
