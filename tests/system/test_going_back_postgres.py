"""Somebody dropped a table of a real PostgreSQL at work, and it comes back: from delayed
secondaries by `suspend --at` and `rollback`, from a backup by `restore`.

Its tables and its log are on two volumes of one daemon. What goes back recovers as after a power
cut, has every transaction that was acknowledged before that moment, and nothing of after it.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.backups import backup, is_duplex_again, made
from tests.support.daemon import run_duplexctl
from tests.support.postgres import (
    PLACES,
    Committer,
    DamagedError,
    Database,
    new_file_systems,
    pgbench,
    run,
)
from tests.system.test_delayed import as_typed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import Daemon, DaemonFiles

COMMITS = 20
ORDERS = "SELECT count(*) FROM orders"


@pytest.fixture
def above() -> Iterator[Path]:
    """A directory that the database's user may pass through; its socket has a short name there."""
    assert os.geteuid() == 0, "this test mounts file systems; run it as root"
    with tempfile.TemporaryDirectory(prefix="duplexd-gb-") as name:
        run("chmod", "711", name)
        yield Path(name)


class Site:
    """A daemon with the volumes, and the database on them, which is mounted below `place`."""

    def __init__(self, daemon: Daemon, above: Path) -> None:
        self.daemon = daemon
        self.database = Database(self._place(above / "live"))
        self._above = above

    def _place(self, path: Path) -> Path:
        path.mkdir()
        run("chown", "postgres", str(path))
        return path

    def ctl(self, *arguments: str) -> Any:
        """What a command that succeeds answers."""
        done = run_duplexctl(self.daemon.files, "--json", *arguments)
        assert done.returncode == 0, done
        return json.loads(done.stdout.splitlines()[-1])  # after lines of progress

    @contextmanager
    def mounted(self, new: bool = False) -> Iterator[None]:
        """The file systems of the volumes."""
        uris = {name: self.daemon.files.uri(name) for name in PLACES}
        with new_file_systems(uris, self.database.above, make=new):
            yield

    @contextmanager
    def at_work(self) -> Iterator[Committer]:
        """It commits, and there is a table of orders."""
        with self.database.running(), Committer(self.database) as commits, pgbench(self.database):
            self.database.ask("CREATE TABLE orders AS SELECT generate_series(1, 5000) AS id")
            commits.more(COMMITS)
            yield commits

    def drop_orders(self, commits: Committer) -> None:
        """And go on, until nothing of the table is left on the volumes' file systems."""
        self.database.ask("DROP TABLE orders")
        self.database.ask("CHECKPOINT")
        commits.more(COMMITS)

    @contextmanager
    def clone(self, cut: str) -> Iterator[Database]:
        """A second database, on clones of a cut."""
        self.ctl("clone", f"db@{cut}", "--name", "look")
        uris = {name: self.daemon.files.uri(f"{name}@{cut}+look") for name in PLACES}
        database = Database(self._place(self._above / "look"))
        with new_file_systems(uris, database.above, make=False):
            database.adopt()
            yield database
        self.ctl("drop-clone", "db", "look")

    def mirrored(self) -> None:
        """The secondaries get what the volumes hold now, and are compared with them."""
        self.ctl("resync", "db", "--wait")
        self.ctl("suspend", "db")
        self.ctl("verify", "db")

    def went_back(self, first: int, last: int) -> None:
        """The volumes hold a whole database with the table, all that was acknowledged up to
        `first`, and nothing after `last`.
        """
        self.database.log.unlink()
        with self.mounted():
            self.database.adopt()
            found = self.database.check(first)
            assert first <= found <= last
            with self.database.running():
                assert self.database.ask(ORDERS) == "5000"


@pytest.fixture
def site(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon], above: Path
) -> Callable[..., Site]:
    def make(**how: str) -> Site:
        volumes, groups = dict.fromkeys(PLACES, "160MiB"), {"db": list(PLACES)}
        return Site(start_daemon(make_files(volumes=volumes, groups=groups, **how)), above)

    return make


def test_a_table_that_was_dropped_comes_back_from_delayed_secondaries(
    site: Callable[..., Site],
) -> None:
    here = site(mode="delayed", delay="1h", journal_size="512MiB")
    with here.mounted(new=True):
        here.database.make()
        with here.at_work() as commits:
            noted = time.time()
            here.drop_orders(commits)
            cut = here.ctl("suspend", "db", "--at", as_typed(noted), "--tag", "before-drop")
            assert cut["verdict"] == "consistent"
            with here.clone(cut["cut"]) as look, look.running():
                assert look.ask(ORDERS) == "5000"
            with pytest.raises(DamagedError, match="does not exist"):
                here.database.ask(ORDERS)
            commits.more(COMMITS)  # the clone was in nobody's way
    here.ctl("rollback", "db", "--to", "before-drop")
    acknowledged = commits.before(noted)
    here.went_back(acknowledged, acknowledged + 1)  # one may have been on its way
    here.mirrored()


def test_a_table_that_was_dropped_comes_back_from_a_backup(
    site: Callable[..., Site], tmp_path: Path
) -> None:
    here = site(journal_size="64MiB")
    destination = tmp_path / "backups"
    with here.mounted(new=True):
        here.database.make()
        with here.at_work() as commits:
            saved = made(backup(here.daemon, destination, "--no-verify-cut"))
            after = len(commits.noted) + 1
            here.drop_orders(commits)
        assert is_duplex_again(here.daemon)
    answer = here.ctl("restore", "db", "--from", str(destination))
    assert (answer["outcome"], answer["backup"]) == ("restored", saved["id"])
    here.went_back(commits.before(saved["cut_time"]), after)
    here.mirrored()
