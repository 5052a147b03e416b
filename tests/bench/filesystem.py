"""A file system on the volume: ext4 on a loop device of nbdfuse's file, which needs no NBD module
in the kernel. Needs root.

FUSE and the loop device cost both servers the same, and more than either of them. So a ratio near 1
is what to expect, and a lower one says that the difference is felt even so.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sysconfig
import tarfile
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from duplexd.units import GIB, MIB
from tests.bench.parts import Bench, Part, in_turns
from tests.bench.rows import NBDKIT, OURS, Goal, Measure, Measured, Row
from tests.bench.servers import SERVERS
from tests.support.fuse.mounting import unmount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.servers import Server

BYTES = 2 * GIB
ROUNDS_MAX = 3
SECONDS_MIN = 3.0
READY_SECONDS_MAX = 60.0
PGBENCH_CLIENTS, PGBENCH_SCALE = 4, 5
GOAL = (Goal(0.8, NBDKIT),)
UNTAR = Row("ext4: untar of a source tree", "MiB/s", GOAL)
SQLITE = Row("ext4: sqlite, a transaction of one row", "1/s", GOAL)
PGBENCH = Row("ext4: pgbench, 4 clients", "1/s", GOAL)
_TPS = re.compile(r"tps = ([\d.]+)")


@contextmanager
def mounted(server: Server) -> Iterator[Path]:
    """A new ext4 on the server's volume."""
    fuse, point = server.directory / "fuse", server.directory / "mnt"
    fuse.mkdir()
    point.mkdir()
    file = fuse / "nbd"
    with subprocess.Popen(["nbdfuse", str(file), server.uri()], stdin=subprocess.DEVNULL):
        try:
            _wait(file)
            options = "lazy_itable_init=0,lazy_journal_init=0"
            subprocess.run(["mkfs.ext4", "-q", "-F", "-E", options, str(file)], check=True)
            subprocess.run(["mount", "-o", "loop", str(file), str(point)], check=True)
            try:
                yield point
            finally:
                _unmount(point)
        finally:
            unmount(str(fuse))


def _unmount(point: Path) -> None:
    """A database that has stopped may still be ending."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    while subprocess.run(["umount", str(point)], capture_output=True, check=False).returncode:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{point} is still in use")
        time.sleep(0.2)


def _wait(file: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while not file.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"nbdfuse has not mounted {file}")
        time.sleep(0.02)


def _untar(archive: Path, point: Path) -> Measure:
    target = point / "tree"
    target.mkdir()
    began = time.perf_counter()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(target)], check=True)
    subprocess.run(["sync", "-f", str(target)], check=True)
    elapsed_s = time.perf_counter() - began
    shutil.rmtree(target)
    subprocess.run(["sync", "-f", str(point)], check=True)
    return Measure(archive.stat().st_size / MIB / elapsed_s)


def _source_tree(archive: Path) -> Path:
    """The standard library of Python: some thousand files."""
    library = Path(sysconfig.get_path("stdlib"))
    with tarfile.open(archive, "w") as tar:
        for path in library.iterdir():
            if path.name not in {"site-packages", "test"}:
                tar.add(path, path.name)
    return archive


def _sqlite(seconds: float, point: Path) -> Measure:
    """Each transaction is synced."""
    database = sqlite3.connect(point / "db", isolation_level=None)
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE IF NOT EXISTS log (number INTEGER PRIMARY KEY, text TEXT)")
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        database.execute("INSERT INTO log (text) VALUES (?)", ("x" * 100,))
        count += 1
    elapsed_s = time.perf_counter() - began
    database.close()
    return Measure(count / elapsed_s)


def _files(bench: Bench) -> dict[str, Measured]:
    archive = _source_tree(bench.directory / "source.tar")
    seconds = max(bench.seconds, SECONDS_MIN)

    def prepare(point: Path, _stack: ExitStack) -> dict[str, Callable[[], Measure]]:
        return {
            UNTAR.name: partial(_untar, archive, point),
            SQLITE.name: partial(_sqlite, seconds, point),
        }

    return _on_both(bench, prepare)


def _on_both(
    bench: Bench, prepare: Callable[[Path, ExitStack], dict[str, Callable[[], Measure]]]
) -> dict[str, Measured]:
    """The rows' work on a file system of each server, in turns."""
    if os.geteuid() != 0:
        raise SystemExit("this part mounts file systems; run it as root")
    bench.directory.chmod(0o711)  # for the user that runs the database
    works: dict[str, dict[str, Callable[[], Measure]]] = {}
    with ExitStack() as stack:
        for name in (OURS, NBDKIT):
            server = stack.enter_context(SERVERS[name](bench.place(name), BYTES))
            point = stack.enter_context(mounted(server))
            for row, work in prepare(point, stack).items():
                works.setdefault(row, {})[name] = work
        return in_turns(bench, works, min(bench.rounds, ROUNDS_MAX))


# --------------------------------------------------------------------------------- PostgreSQL


def _tool(name: str) -> str:
    """A program that Debian keeps out of the search path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not found:
        raise SystemExit(f"this part needs {name}; install the package postgresql")
    return str(found[-1])


def _as_postgres(*command: str) -> str:
    done = subprocess.run(
        ["runuser", "-u", "postgres", "--", *command],
        check=True,
        capture_output=True,
        text=True,
        cwd="/",
    )
    return done.stdout


@contextmanager
def _database(point: Path) -> Iterator[Path]:
    """A PostgreSQL with its data on the file system; the directory of its socket."""
    data = point / "data"
    data.mkdir(mode=0o700)
    shutil.chown(data, "postgres")
    _as_postgres(_tool("initdb"), "-D", str(data), "--auth=trust")
    options = f"-c listen_addresses='' -k {data}"
    log = str(data / "log")
    _as_postgres(_tool("pg_ctl"), "-D", str(data), "-o", options, "-l", log, "-w", "start")
    try:
        scale = ["-s", str(PGBENCH_SCALE)]
        _as_postgres(_tool("pgbench"), "-q", "-i", *scale, "-h", str(data), "postgres")
        yield data
    finally:
        _as_postgres(_tool("pg_ctl"), "-D", str(data), "-m", "fast", "-w", "stop")


def _pgbench(seconds: float, data: Path) -> Measure:
    command = [_tool("pgbench"), "-n", "-c", str(PGBENCH_CLIENTS), "-T", str(round(seconds))]
    said = _as_postgres(*command, "-h", str(data), "postgres")
    match = _TPS.search(said)
    if match is None:
        raise RuntimeError(f"pgbench said {said!r}")
    return Measure(float(match[1]))


def _postgres(bench: Bench) -> dict[str, Measured]:
    seconds = max(bench.seconds, SECONDS_MIN)

    def prepare(point: Path, stack: ExitStack) -> dict[str, Callable[[], Measure]]:
        data = stack.enter_context(_database(point))
        return {PGBENCH.name: partial(_pgbench, seconds, data)}

    return _on_both(bench, prepare)


def parts() -> Iterator[Part]:
    yield Part("files", [UNTAR, SQLITE], _files, extra=True)
    yield Part("postgres", [PGBENCH], _postgres, extra=True)
