"""Directories of runs: removed when the run ends, and of one that was killed by the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from duplexd.backup.scratch import scratch
from duplexd.errors import DuplexdError
from tests.support.daemon import ROOT, environment

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "duplexd-test-"
KILLED = f"""
import os, signal
from duplexd.backup.scratch import scratch
with scratch({PREFIX!r}) as path:
    (path / "socket").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def names(above: Path) -> set[str]:
    return {path.name for path in above.iterdir()}


def test_it_is_there_within_and_gone_afterwards(above: Path) -> None:
    with scratch(PREFIX) as path:
        (path / "file").touch()
        assert names(above) == {path.name}
    assert names(above) == set()


def test_what_a_killed_run_left_is_removed_by_the_next(above: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED], env=environment() | {"TMPDIR": str(above)}, cwd=ROOT,
        check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert len(names(above)) == 1
    with scratch(PREFIX) as path:
        assert names(above) == {path.name}


def test_that_of_a_run_that_is_alive_stays(above: Path) -> None:
    with scratch(PREFIX) as first, scratch(PREFIX) as second:
        assert names(above) == {first.name, second.name}


def test_what_others_may_have_made_stays(above: Path) -> None:
    """A link to somewhere, a directory that others may write to, and one that is not ours."""
    elsewhere = above / "elsewhere"
    elsewhere.mkdir(0o700)
    (elsewhere / "file").touch()
    (above / f"{PREFIX}link").symlink_to(elsewhere)
    (above / f"{PREFIX}open").mkdir(0o755)
    (above / f"{PREFIX}file").touch()
    if os.geteuid() == 0:
        (above / f"{PREFIX}foreign").mkdir(0o700)
        os.chown(above / f"{PREFIX}foreign", 65534, -1)
    before = names(above)
    with scratch(PREFIX):
        pass
    assert names(above) == before
    assert (elsewhere / "file").exists()


def test_without_room_for_one_the_error_names_the_place(
    above: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(above / "none"))
    with pytest.raises(DuplexdError, match=f"{above}/none.*: No such file"), scratch(PREFIX):
        pass
