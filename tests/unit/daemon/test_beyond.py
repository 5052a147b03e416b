"""What `duplexd check` says of a daemon, and of images, that do not answer."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from typing import TYPE_CHECKING

from duplexd.daemon import beyond
from duplexd.daemon.beyond import beyond_the_file
from duplexd.limits import DaemonLimits
from tests.unit.daemon.files import config

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_daemon_that_does_not_answer_is_given_up_with_what_its_process_does(
    tmp_path: Path,
) -> None:
    (tmp_path / "state").mkdir()
    lock = tmp_path / "state" / "lock"
    lock.write_text("4711\n")
    (tmp_path / "f.toml").write_text("[controller]")
    with lock.open() as held, socket.socket(socket.AF_UNIX) as listener:
        fcntl.flock(held, fcntl.LOCK_EX)
        listener.bind(str(tmp_path / "c"))
        listener.listen(8)
        found = beyond_the_file(config(tmp_path), DaemonLimits(check_answer_seconds_max=0.1))
    (line,) = found.refused
    assert found.exit_code == 8
    assert "a daemon runs with this state_dir (process 4711), but it does not say" in line
    assert f"; process {os.getpid()} does not answer: see its log" in line


def test_an_image_that_does_not_answer_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").mkdir()
    monkeypatch.setattr(beyond, "_look", lambda _path, _offsets, _last: time.sleep(1))
    configured = config(tmp_path)
    found = beyond_the_file(configured, DaemonLimits(look_seconds_max=0.05))
    (problem,) = found.found
    assert problem.line.startswith(f"{tmp_path / 'p'}: does not answer for 0.05 s")
    assert problem.degrades
