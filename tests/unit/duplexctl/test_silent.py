"""A daemon whose process does nothing: no command waits for it without end, and says what it is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from duplexd.client.silence import remedy
from duplexd.duplexctl.cli import Commands, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LISTENER = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(256)
print(flush=True)
sys.stdin.read()
"""
ARGUMENTS: dict[str, list[list[str]]] = {
    "adopt": [["data"]],
    "backup": [["data", "--", "true"]],
    "changes": [["data", "--since", "nightly"]],
    "clone": [["data", "--name", "test"]],
    "clones": [[]],
    "cuts": [[]],
    "drill": [["data", "--", "true"]],
    "drop-clone": [["data", "test"]],
    "events": [[], ["--follow"]],
    "health": [[]],
    "mark": [["data"]],
    "points": [["data"], ["data", "--reach"]],
    "quiesce": [["data", "--hold", "0.2"]],
    "release": [["lease"]],
    "release-reader": [["data", "backup"]],
    "reload": [[], ["--check"]],
    "rollback": [["data", "--to", "nightly", "--yes"]],
    "repair": [["data", "--from", "primary"]],
    "restart": [[]],
    "restore": [["data", "--from", "/", "--yes"]],
    "resync": [["data"], ["data", "--wait"]],
    "status": [[], ["--watch"]],
    "suspend": [["data"]],
    "swap": [["data"]],
    "top": [["--once"]],
    "verify": [["data"]],
}
# settle is refused: cuts of one daemon are always decided
ASK_NO_DAEMON = {"backups", "canary", "completion", "settle", "verify-cut"}


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """The socket of a process that is stopped, and that process."""
    path = tmp_path / "c.sock"
    command = [sys.executable, "-c", LISTENER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        yield path, process.pid
        process.send_signal(signal.SIGCONT)


def test_no_command_waits_for_it_without_end(
    stopped: tuple[Path, int], capfd: pytest.CaptureFixture[str]
) -> None:
    path, pid = stopped
    for command, lines in ARGUMENTS.items():
        for arguments in lines:
            line = ["--socket", str(path), "--timeout", "0.2", command, *arguments]
            assert run(line) == 8, line
            said = capfd.readouterr().err
            if command != "quiesce":  # that one has a time of its own
                assert f"process {pid} is stopped (SIGSTOP): continue it with" in said, line


@pytest.mark.parametrize("command", [["status"], ["health"], ["verify", "both"]])
def test_of_a_groups_file_each_member_that_is_silent_is_said_with_what_to_do(
    stopped: tuple[Path, int],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    command: list[str],
) -> None:
    path, pid = stopped
    groups = tmp_path / "groups.toml"
    groups.write_text(
        f'[controllers.alpha]\nsocket = "{path}"\n[controllers.beta]\nsocket = "none"\n'
        '[groups.both]\nmembers = ["alpha:data", "beta:wal"]\n'
    )
    assert run(["--groups", str(groups), "--timeout", "0.3", *command]) in {7, 8}
    said = capfd.readouterr().err
    assert f"alpha: process {pid} is stopped (SIGSTOP): continue it with `kill -CONT {pid}`" in said


def test_every_command_is_tried_on_it() -> None:
    commands = set(Commands().list_commands(None))
    assert commands == ARGUMENTS.keys() | ASK_NO_DAEMON


def test_one_that_runs_and_is_silent_is_to_be_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        assert remedy(str(path)).startswith(f"process {os.getpid()} does not answer: see its log")
    assert remedy(str(path)).startswith("the daemon does not answer: see its log")
