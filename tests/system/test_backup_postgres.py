"""Backups of a real PostgreSQL at work: its tables on one daemon, its log on another.

Each is restored from its images, started, and looked at: it recovers as after a power cut, and has
every transaction that was acknowledged before the cut. The control is what people do without a
consistency group: one image copied after the other.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.backups import ctl, made
from tests.support.cluster import Cluster, Member
from tests.support.daemon import PATIENCE_SECONDS
from tests.support.postgres import (
    PLACES,
    Committer,
    DamagedError,
    Database,
    mounted,
    new_file_systems,
    pgbench,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMBERS = {"data": Member("alpha", "data"), "wal": Member("beta", "wal")}
INCREMENTAL = 6
COMMITS = 20  # between two backups


@pytest.fixture
def above() -> Iterator[Path]:
    """A directory that the database's user may pass through; its socket has a short name there."""
    assert os.geteuid() == 0, "this test mounts file systems; run it as root"
    with tempfile.TemporaryDirectory(prefix="duplexd-pg-") as name:
        run("chmod", "711", name)
        yield Path(name)


def convert(source: str, source_format: str, image: Path) -> None:
    command = ["qemu-img", "convert", "-f", source_format, "-O", "raw", source, str(image)]
    subprocess.run(command, check=True, timeout=PATIENCE_SECONDS)


def check(images: dict[str, Path], above: Path, last: int) -> int:
    """Start the database that these images hold; see `Database.check`."""
    above.mkdir()
    (above / "log").touch()
    run("chown", "postgres", str(above), str(above / "log"))
    with ExitStack() as stack:
        for place in PLACES:
            stack.enter_context(mounted(images[place], above / place))
        database = Database(above)
        database.adopt()
        found = database.check(last)
    for place in PLACES:
        run("e2fsck", "-fn", str(images[place]))
    return found


def images_of(where: dict[str, tuple[str, str]], directory: Path) -> dict[str, Path]:
    """Raw images of these sources, which are (what, its format). Each has a name of its own: a loop
    device may outlive its mount for a while, with what it remembers of its file.
    """
    directory.mkdir(exist_ok=True)
    found = {}
    for place, (source, source_format) in where.items():
        found[place] = directory / f"{place}.img"
        convert(source, source_format, found[place])
    return found


def test_incremental_backups_of_a_database_at_work_have_all_that_was_acknowledged(
    above: Path, tmp_path: Path
) -> None:
    destination = tmp_path / "backups"
    with ExitStack() as stack:
        cluster = stack.enter_context(
            Cluster(above / "c", {"alpha": ["data"], "beta": ["wal"]}, "160MiB", "64MiB")
        )
        groups = cluster.write_groups({"db": cluster.members})
        uris = {place: str(cluster.uri(member)) for place, member in MEMBERS.items()}
        first = above / "first"
        first.mkdir()
        stack.enter_context(new_file_systems(uris, first))
        run("chown", "postgres", str(first))
        database = Database(first)
        database.make()
        stack.enter_context(database.running())
        commits = stack.enter_context(Committer(database))
        stack.enter_context(pgbench(database))
        backups = []
        for number in range(1 + INCREMENTAL):
            commits.more(COMMITS)
            options = ["--incremental", *(["--no-verify-cut"] if number % 3 else [])]
            command = ["--groups", str(groups), "--json", "backup", "db", str(destination)]
            backups.append(made(ctl(*command, *options)))
        began = time.time()
        naive = images_of({"wal": (uris["wal"], "raw")}, tmp_path / "naive")
        database.ask("CHECKPOINT")  # as there are some in the time that a copy takes
        naive |= images_of({"data": (uris["data"], "raw")}, tmp_path / "naive")
    assert [each["base"] is None for each in backups] == [True, *[False] * INCREMENTAL]
    lasts = [commits.before(each["cut_time"]) for each in backups]
    assert lasts == sorted(set(lasts))
    assert lasts[0] > 0
    for number, (each, last) in enumerate(zip(backups, lasts, strict=True)):
        files = {row["volume"]: Path(each["path"]) / row["file"] for row in each["volumes"]}
        where = {place: (str(files[place]), "qcow2") for place in PLACES}
        directory = above / f"restored-{number}"
        found = check(images_of(where, tmp_path / str(number)), directory, last)
        assert found <= len(commits.noted) + 1
    with pytest.raises(DamagedError):
        check(naive, above / "naive", commits.before(began))
