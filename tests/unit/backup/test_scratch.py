"""Directories of runs: removed when the run ends, and of one that was killed by the next."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from duplexd.backup.scratch import scratch
from duplexd.errors import DuplexdError
from duplexd.limits import SOCKET_PATH_BYTES_MAX
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


def test_where_sockets_would_have_too_long_paths_it_is_elsewhere(
    above: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = above / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with scratch(PREFIX, len("/socket")) as path:
        assert len(os.fsencode(path / "socket")) <= SOCKET_PATH_BYTES_MAX
    with scratch(PREFIX) as path:
        assert path.parent == deep


def test_the_longest_path_of_a_socket_that_the_kernel_takes_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deep = tempfile.mkdtemp(prefix="d" * 40, dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", deep)
    room = SOCKET_PATH_BYTES_MAX - len(os.fsencode(deep)) - len(f"/{PREFIX}12345678")
    try:
        with scratch(PREFIX, room) as path, socket.socket(socket.AF_UNIX) as listening:
            assert str(path.parent) == deep
            listening.bind(str(path / ("s" * (room - 1))))
        with scratch(PREFIX, room + 1) as path:
            assert str(path.parent) == "/tmp"
    finally:
        os.rmdir(deep)
