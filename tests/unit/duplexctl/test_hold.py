"""`duplexctl quiesce` as a process: what it holds, what it returns, and what its death does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from duplexd.limits import ApiLimits
from tests.support.control_plane import ControlPlane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., subprocess.Popen[str]]

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_SECONDS = 100.0
NEVER_SECONDS = 3600.0
LIMITS = (
    f"ClientLimits(release_seconds_max={PATIENCE_SECONDS}, late_seconds_max={PATIENCE_SECONDS})"
)
CODE = (
    "from duplexd.duplexctl.cli import main; from duplexd.limits import ClientLimits;"
    f" main(limits={LIMITS})"
)
MAIN = [sys.executable, "-c", CODE]


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Nothing ends by itself, and no line is due that would show that its reader is gone.

    What is noticed is noticed at once.
    """
    limits = ApiLimits(heartbeat_seconds=NEVER_SECONDS, stop_seconds_max=NEVER_SECONDS)
    with capture_logs():  # else they would get between what duplexctl writes to the same stdout
        control = ControlPlane(tmp_path / "c.sock", limits=limits)
        control.controller.hold_scale = NEVER_SECONDS
        yield control
        control.stop()


@pytest.fixture
def start(plane: ControlPlane) -> Iterator[Start]:
    """Starts a duplexctl of its own process group; ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        environment = os.environ | {"DUPLEXD_SOCKET": str(plane.path), "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [*MAIN, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            process_group=0,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Command:
    """A command for duplexctl to run, which shows that it began, and ends when asked to."""

    def __init__(self, directory: Path) -> None:
        self._began, self._may_end = directory / "began", directory / "may end"
        self.line = [
            "sh",
            "-c",
            'touch "$0"; until [ -e "$1" ]; do sleep 0.02; done',
            str(self._began),
            str(self._may_end),
        ]

    def wait(self) -> None:
        """Until it runs."""
        wait_for(self._began.exists)

    def end(self) -> None:
        self._may_end.touch()


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    made = Command(tmp_path)
    yield made
    made.end()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("command", "status"),
    [("exit 0", 0), ("exit 3", 3), ("exit 9", 9), ("kill -TERM $$", 128 + 15)],
)
def test_the_commands_status_is_returned_and_the_hold_released(
    start: Start, plane: ControlPlane, command: str, status: int
) -> None:
    code, _, err = finish(start("quiesce", "db", "--hold", "10", "--", "sh", "-c", command))
    assert (code, err) == (status, "")
    assert plane.controller.leases["L1"].ended.result() == "released"


def test_the_command_finds_the_lease_and_runs_within_the_hold(
    start: Start, plane: ControlPlane
) -> None:
    code, out, _ = finish(
        start(
            "quiesce",
            "db",
            "--hold",
            "10",
            "--json",
            "--",
            sys.executable,
            "-c",
            "import os; print(os.environ['DUPLEXD_LEASE'])",
        )
    )
    assert code == 0
    lease, end = out.splitlines()
    assert lease == "L1"
    assert json.loads(end) == {
        "lease": "L1",
        "status": 0,
        "verdict": "consistent",
        "reason": "released",
    }


def test_a_command_may_suspend_by_the_lease(start: Start, plane: ControlPlane) -> None:
    inner = (
        f'{sys.executable} -c "from duplexd.duplexctl.cli import main; main()" suspend db'
        ' --lease "$DUPLEXD_LEASE"'
    )
    code, out, err = finish(start("quiesce", "db", "--hold", "10", "--", "sh", "-c", inner))
    assert (code, err) == (0, "")
    assert "consistent" in out
    assert plane.controller.leases["L1"].ended.result() == "suspended"


def lost(process: subprocess.Popen[str]) -> str:
    """What duplexctl says as soon as the hold is lost, while the command runs on."""
    assert process.stderr is not None
    return process.stderr.readline()


def test_a_hold_that_ended_before_the_command_is_9_though_the_command_succeeded(
    start: Start, plane: ControlPlane, command: Command
) -> None:
    plane.controller.hold_scale = 1.0
    process = start("quiesce", "db", "--hold", "0.2", "--", *command.line)
    assert lost(process).endswith("is lost: deadline; sh is still running\n")
    command.end()
    code, _, err = finish(process)
    assert code == 9
    assert "deadline" in err


def test_a_hold_that_somebody_else_releases_during_the_command_is_9(
    start: Start, plane: ControlPlane, command: Command
) -> None:
    process = start("--json", "quiesce", "db", "--hold", "10", "--", *command.line)
    command.wait()
    assert plane.ask("DELETE", "/v1/leases/L1")[1]["released"]
    assert lost(process).endswith("is lost: released by somebody else; sh is still running\n")
    command.end()
    code, out, err = finish(process)
    assert (code, json.loads(out)) == (
        9,
        {"lease": "L1", "status": 0, "verdict": "void", "reason": "released by somebody else"},
    )
    assert "the hold of db was lost: released by somebody else" in err


def test_a_hold_that_the_command_itself_releases_before_its_end_is_9(
    start: Start, plane: ControlPlane
) -> None:
    inner = (
        f'{sys.executable} -c "from duplexd.duplexctl.cli import main; main()" release'
        ' "$DUPLEXD_LEASE"'
    )
    assert finish(start("quiesce", "db", "--hold", "10", "--", "sh", "-c", inner))[0] == 9


def test_a_daemon_that_stops_during_the_command_is_9(
    start: Start, plane: ControlPlane, command: Command
) -> None:
    process = start("quiesce", "db", "--hold", "10", "--", *command.line)
    command.wait()
    plane.stop()
    assert lost(process).endswith("is lost: stopping; sh is still running\n")
    command.end()
    code, _, err = finish(process)
    assert code == 9
    assert "stopping" in err


def test_a_command_that_cannot_be_run_releases_at_once(
    start: Start, plane: ControlPlane, tmp_path: Path
) -> None:
    assert finish(start("quiesce", "db", "--", "no-such-command"))[0] == 127
    (tmp_path / "plain").write_text("")
    assert finish(start("quiesce", "db", "--", str(tmp_path / "plain")))[0] == 126
    assert [lease.ended.result() for lease in plane.controller.leases.values()] == [
        "released",
        "released",
    ]


@pytest.mark.parametrize("with_command", [False, True])
def test_an_owner_killed_with_minus_9_releases_at_once_and_void(
    start: Start, plane: ControlPlane, command: Command, with_command: bool
) -> None:
    process = start(
        "quiesce", "db", "--hold", "10", *(["--", *command.line] if with_command else [])
    )
    if with_command:
        command.wait()
    else:
        wait_for(lambda: plane.controller.leases)
    process.kill()
    wait_for(
        lambda: "L1" in plane.controller.released_at
    )  # though the command that it left behind runs on
    assert plane.controller.leases["L1"].ended.result() == "owner gone"
    assert plane.controller.leases["L1"].lost


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_an_interrupt_releases(
    start: Start, plane: ControlPlane, number: signal.Signals
) -> None:
    process = start("quiesce", "db", "--hold", "10", "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["lease"]["id"] == "L1"
    process.send_signal(number)
    code, out, err = finish(process)
    assert (code, err) == (0, "")
    assert json.loads(out)["reason"] == "released"
    assert not plane.controller.leases["L1"].lost


def test_an_interrupt_that_is_ignored_stays_ignored(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a job in the background of a script."""
    monkeypatch.setenv("DUPLEXD_SOCKET", str(plane.path))
    shell = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *MAIN, "quiesce", "db", "--json"]
    with subprocess.Popen(shell, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "held"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, json.loads(out)["reason"]) == (0, "released")


@pytest.mark.parametrize("ignored", ["INT", "TERM"])
def test_a_command_ignores_the_signals_that_duplexctl_was_started_to_ignore(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, ignored: str
) -> None:
    monkeypatch.setenv("DUPLEXD_SOCKET", str(plane.path))
    look = f"import signal; print(signal.getsignal(signal.SIG{ignored}) is signal.SIG_IGN)"
    shell = ["sh", "-c", f'trap "" {ignored}; exec "$@"', "sh", *MAIN]
    command = [*shell, "quiesce", "db", "--", sys.executable, "-c", look]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_SECONDS, check=True
    )
    assert done.stdout == "True\n"


def test_in_the_foreground_a_deadline_is_9_and_a_release_is_0(
    start: Start, plane: ControlPlane
) -> None:
    plane.controller.hold_scale = 1.0
    assert finish(start("quiesce", "db", "--hold", "0.2"))[0] == 9
    plane.controller.hold_scale = NEVER_SECONDS
    process = start("quiesce", "db", "--hold", "10")
    wait_for(lambda: len(plane.controller.leases) == 2)
    assert plane.ask("DELETE", "/v1/leases/L2")[1]["released"]
    assert finish(process)[0] == 0


def test_ctrl_c_while_a_command_runs_ends_the_command_first(
    start: Start, plane: ControlPlane, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    script = (
        f"import pathlib, sys, time\ntry:\n pathlib.Path({str(ready)!r}).touch();"
        f" time.sleep({PATIENCE_SECONDS})\nexcept KeyboardInterrupt:\n time.sleep(0.3); sys.exit(4)"
    )
    process = start("quiesce", "db", "--hold", "10", "--", sys.executable, "-c", script)
    wait_for(ready.exists)
    interrupted_at = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    assert finish(process)[0] == 4
    assert plane.controller.released_at["L1"] - interrupted_at > 0.25
    assert plane.controller.leases["L1"].ended.result() == "released"


def test_an_interrupt_while_writes_drain_holds_nothing(start: Start, plane: ControlPlane) -> None:
    plane.controller.drain_s = NEVER_SECONDS
    process = start("quiesce", "db", "--hold", "10")
    wait_for(lambda: plane.controller.draining)
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 130
    wait_for(lambda: plane.controller.cancelled == ["quiesce"])
