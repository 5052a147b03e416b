"""Somebody dropped a table of a real PostgreSQL at work, and it comes back: from delayed
secondaries by `suspend --at` and `rollback`, from a backup by `restore`.

Its tables and its log are on two volumes, of one daemon or of two. What goes back recovers as after
a power cut, has every transaction that was acknowledged before that moment, and none of after it.
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

from tests.support.backups import ctl, is_duplex_again
from tests.support.cluster import Cluster
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
    from collections.abc import Iterator

ONE = {"alpha": list(PLACES)}
TWO = {"alpha": ["data"], "beta": ["wal"]}
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
    """Daemons with the volumes, and the database on them, which is mounted below `place`."""

    def __init__(self, cluster: Cluster, above: Path) -> None:
        self.cluster = cluster
        self.members = {member.volume: member for member in cluster.members}
        self.database = Database(self._place(above / "live"))
        self._groups = cluster.write_groups({"db": cluster.members})
        self._above = above

    def _place(self, path: Path) -> Path:
        path.mkdir()
        run("chown", "postgres", str(path))
        return path

    def ctl(self, *arguments: str) -> Any:
        """What a command that succeeds answers."""
        done = ctl("--groups", str(self._groups), "--json", *arguments)
        assert done.returncode == 0, done
        return json.loads(done.stdout.splitlines()[-1])  # after lines of progress

    def uris(self, point: str = "") -> dict[str, str]:
        return {
            place: str(self.cluster.uri(member._replace(volume=member.volume + point)))
            for place, member in self.members.items()
        }

    @contextmanager
    def mounted(self, new: bool = False) -> Iterator[None]:
        """The file systems of the volumes."""
        with new_file_systems(self.uris(), self.database.above, make=new):
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
        database = Database(self._place(self._above / "look"))
        with new_file_systems(self.uris(f"@{cut}+look"), database.above, make=False):
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


@contextmanager
def site(
    above: Path, volumes: dict[str, list[str]], journal_size: str, delay: str = ""
) -> Iterator[Site]:
    with Cluster(above / "c", volumes, "160MiB", journal_size, delay=delay) as cluster:
        yield Site(cluster, above)


@pytest.mark.parametrize(
    "volumes",
    [
        pytest.param(ONE, id="one daemon", marks=pytest.mark.long),
        pytest.param(TWO, id="two daemons"),
    ],
)
def test_a_table_that_was_dropped_comes_back_from_delayed_secondaries(
    above: Path, volumes: dict[str, list[str]]
) -> None:
    with site(above, volumes, "512MiB", delay="1h") as here:
        comes_back_from_delayed_secondaries(here)


def comes_back_from_delayed_secondaries(here: Site) -> None:
    with here.mounted(new=True):
        here.database.make()
        with here.at_work() as commits:
            began = time.time()
            if len(here.cluster.daemons) > 1:  # by their clocks they have no common point but marks
                here.ctl("mark", "db")
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
    here.went_back(commits.before(began), commits.before(noted) + 1)  # one may have been under way
    here.mirrored()


def test_a_table_that_was_dropped_comes_back_from_a_backup(above: Path, tmp_path: Path) -> None:
    with site(above, TWO, "64MiB") as here:
        comes_back_from_a_backup(here, tmp_path / "backups")


def comes_back_from_a_backup(here: Site, destination: Path) -> None:
    with here.mounted(new=True):
        here.database.make()
        with here.at_work() as commits:
            saved = here.ctl("backup", "db", str(destination), "--no-verify-cut")
            after = len(commits.noted) + 1
            here.drop_orders(commits)
        assert all(map(is_duplex_again, here.cluster.daemons.values()))
    answer = here.ctl("restore", "db", "--from", str(destination))
    assert (answer["outcome"], answer["backup"]) == ("restored", saved["id"])
    here.went_back(commits.before(saved["cut_time"]), after)
    here.mirrored()
