"""The drill of docs/backup.md, as it stands there, on a PostgreSQL that goes on writing."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import PATIENCE_SECONDS, ROOT
from tests.system.test_points import Operator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import Daemon, DaemonFiles

COMMON = """
set -eu
cd "$1"
bin=$(echo /usr/lib/postgresql/*/bin)
pg() { runuser -u postgres -- "$bin/$@"; }
"""
START = """
mkdir nbd fs; install -d -o postgres run
nbdfuse --pidfile pid nbd "$2" & until [ -s pid ]; do kill -0 $!; sleep 0.1; done
mkfs.ext4 -q nbd/nbd
mount -o loop nbd/nbd fs
install -d -o postgres fs/pg
pg initdb -D "$1/fs/pg"
pg pg_ctl -D "$1/fs/pg" -w -l "$1/run/log" -o "-k $1/run -c listen_addresses=''" start
pg createdb -h "$1/run" app
pg psql -h "$1/run" -d app -c 'create table orders as select generate_series(1, 5000) id'
"""
MORE = """
pg psql -h "$1/run" -d app -c 'insert into orders select generate_series(1, 100)'
"""
STOP = """
pg pg_ctl -D "$1/fs/pg" -m immediate stop || true
umount fs || true
until fusermount3 -u nbd; do sleep 0.1; done
"""


class Database:
    """PostgreSQL on one ext4 on a volume of duplexd."""

    def __init__(self, directory: str, uri: str) -> None:
        self._arguments = directory, uri

    def run(self, script: str) -> None:
        output = Path(self._arguments[0]) / "output"
        with output.open("wb") as file:  # the server keeps it open: a pipe would have no end
            done = subprocess.run(
                ["bash", "-c", COMMON + script, "database", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
        assert done.returncode == 0, output.read_text()


@pytest.fixture
def ctl(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Operator:
    files = make_files(volumes={"data": "160MiB"}, groups={"db": ["data"]}, journal_size="64MiB")
    return Operator(start_daemon(files))


@pytest.fixture
def database(ctl: Operator) -> Iterator[Database]:
    with tempfile.TemporaryDirectory(prefix="duplexd-drill-") as directory:
        Path(directory).chmod(0o755)  # its user is another
        database = Database(directory, ctl.daemon.files.uri("data"))
        try:
            database.run(START)
            yield database
        finally:
            database.run(STOP)


def check_of_the_docs(path: Path) -> Path:
    text = (ROOT / "docs" / "backup.md").read_text()
    (script,) = re.findall(r"```sh\n(#!/bin/bash\n.*?)```", text, re.DOTALL)
    path.write_text(script)
    path.chmod(0o755)
    return path


def test_postgresql_recovers_on_a_clone_of_the_cut(
    ctl: Operator, database: Database, tmp_path: Path
) -> None:
    check = check_of_the_docs(tmp_path / "check")
    assert ctl("suspend", "db", "--tag", "nightly") == 0
    database.run(MORE)
    before = ctl.daemon.files.secondary_of("data").read_bytes()
    drill = ctl.run("drill", "db@nightly", "--", str(check))
    assert drill.returncode == 0, drill.stderr
    assert "\n5000\n" in drill.stdout  # the rows of the cut, and none after it
    assert "automatic recovery in progress" in drill.stdout + drill.stderr
    assert ctl.daemon.files.secondary_of("data").read_bytes() == before
    assert ctl("resync", "db", "--wait") == 0
