"""What `duplexd check` says of a daemon that runs and does not answer."""

from __future__ import annotations

import fcntl
import os
import socket
from typing import TYPE_CHECKING

from duplexd.daemon.beyond import beyond_the_file
from duplexd.limits import DaemonLimits
from tests.unit.daemon.files import config

if TYPE_CHECKING:
    from pathlib import Path


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
