"""duplexctl whose output can't be written: the disk is full, or nobody reads."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.control_plane import ControlPlane

FULL = "duplexctl: the output could not be written: No space left on device"


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.fixture
def full() -> Iterator[int]:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


def ctl(out: int, *arguments: str, err: int = subprocess.PIPE) -> tuple[int, str]:
    """(exit code, stderr)."""
    command = [sys.executable, "-m", "duplexd.duplexctl.entry", *arguments]
    done = subprocess.run(
        command,
        stdout=out,
        stderr=err,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return done.returncode, done.stderr or ""


@pytest.fixture
def groups(tmp_path: Path) -> str:
    (tmp_path / "groups.toml").write_text(
        '[controllers.fake]\nsocket = "c.sock"\n[groups.db]\nmembers = ["fake:db"]\n'
    )
    return str(tmp_path / "groups.toml")


@pytest.mark.parametrize(
    "arguments", [["status"], ["cuts"], ["verify", "db"], ["events"], ["status", "--watch"]]
)
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_what_only_looks_fails_and_says_why(
    plane: ControlPlane, full: int, unread: int, arguments: list[str], more: list[str]
) -> None:
    command = ["--socket", str(plane.path), *arguments, *more]
    assert ctl(full, *command) == (1, f"{FULL}\n")
    assert ctl(unread, *command) == (1, "")


@pytest.mark.parametrize("arguments", [["status"], ["cuts", "db"], ["verify", "db"]])
def test_of_a_group_too(
    plane: ControlPlane, full: int, unread: int, groups: str, arguments: list[str]
) -> None:
    command = ["--groups", groups, *arguments]
    assert ctl(full, *command) == (1, f"{FULL}\n")
    assert ctl(unread, *command) == (1, "")


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_what_is_done_is_said_nevertheless(
    plane: ControlPlane, full: int, unread: int, groups: str, more: list[str]
) -> None:
    code, err = ctl(full, "--groups", groups, "suspend", "db", *more)
    assert (code, err.startswith(f"{FULL}; this is done: suspended db: consistent, cut 0")) == (
        1,
        True,
    )
    assert err.count("\n") == 1
    again = ["suspend", "db", "--allow-existing"]
    code, err = ctl(unread, "--socket", str(plane.path), *again, *more)
    assert (code, "Broken pipe; this is done: already suspended db: consistent" in err) == (
        1,
        True,
    )
    for wait in ([], ["--wait"]):
        assert ctl(full, "--socket", str(plane.path), "resync", "db", *wait, *more) == (
            1,
            f"{FULL}; this is done: the resync has begun\n",
        )


def test_another_failure_keeps_its_exit_code(plane: ControlPlane, full: int) -> None:
    code, err = ctl(full, "--socket", str(plane.path), "suspend", "none", "--json")
    assert (code, "none" in err, err.count("\n")) == (3, True, 1)
    plane.controller.differs = {"wal"}
    code, err = ctl(full, "--socket", str(plane.path), "verify", "db")
    assert (code, "primary and secondary differ" in err, FULL in err) == (1, True, True)


def test_a_hold_whose_lease_cannot_be_printed_is_released(
    plane: ControlPlane, full: int, groups: str
) -> None:
    plane.controller.hold_scale = 1e6  # it would not end by itself
    for where in (["--socket", str(plane.path)], ["--groups", groups]):
        assert ctl(full, *where, "quiesce", "db", "--hold", "10") == (1, f"{FULL}\n")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while plane.ask("GET", "/v1/status")[1]["leases"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_help_and_wrong_uses(full: int) -> None:
    assert ctl(full, "--help") == (1, f"{FULL}\n")
    code, err = ctl(full, "suspend", "--json")
    assert (code, "Missing argument" in err, "Traceback" in err) == (2, True, False)


def test_a_full_stderr_changes_no_exit_code(plane: ControlPlane, full: int) -> None:
    assert ctl(subprocess.DEVNULL, "--socket", str(plane.path), "suspend", "none", err=full)[0] == 3
    assert ctl(subprocess.DEVNULL, "suspend", err=full)[0] == 2
    assert ctl(full, "--socket", str(plane.path), "suspend", "db", err=full)[0] == 1
    assert (
        ctl(full, "--socket", str(plane.path), "quiesce", "db", "--", "/none", err=full)[0] == 127
    )
    assert ctl(full, "--socket", str(plane.path), "quiesce", "db", "--", "/", err=full)[0] == 126
