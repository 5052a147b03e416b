"""duplexctl started without standard input, output or error (`<&-`, `>&-`, `2>&-`)."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.control_plane import ControlPlane

MAIN = [sys.executable, "-m", "duplexd.duplexctl.entry"]
CLOSED = ["".join(names) for count in (1, 2, 3) for names in combinations("012", count)]


def run_without(closed: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    redirections = " ".join(f"{number}>&-" for number in closed)
    shell = ["sh", "-c", f'exec "$@" {redirections}', "sh"]
    return subprocess.run(
        [*shell, *MAIN, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("closed", CLOSED)
def test_a_group_is_suspended(plane: ControlPlane, tmp_path: Path, closed: str) -> None:
    (tmp_path / "groups.toml").write_text(
        '[controllers.fake]\nsocket = "c.sock"\n[groups.db]\nmembers = ["fake:db"]\n'
    )
    done = run_without(closed, "--groups", str(tmp_path / "groups.toml"), "suspend", "db")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("suspended db: consistent") is ("1" not in closed)
    assert {plane.controller.volumes[name] for name in ("data", "wal")} == {"SUSPENDED"}


@pytest.mark.parametrize("closed", CLOSED)
def test_a_command_runs_under_a_hold_and_has_all_three(plane: ControlPlane, closed: str) -> None:
    look = [sys.executable, "-c", "import os; [os.fstat(number) for number in range(3)]"]
    done = run_without(closed, "--socket", str(plane.path), "quiesce", "db", "--", *look)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("closed", CLOSED)
def test_an_error_has_its_exit_code(plane: ControlPlane, closed: str) -> None:
    done = run_without(closed, "--socket", str(plane.path), "suspend", "none")
    assert (done.returncode, "none" in done.stderr) == (3, "2" not in closed)


@pytest.mark.parametrize("closed", CLOSED)
def test_nothing_is_held_in_the_foreground_where_the_lease_cannot_be_printed(
    plane: ControlPlane, closed: str
) -> None:
    plane.controller.hold_scale = 0.001  # else it ends soon
    done = run_without(closed, "--socket", str(plane.path), "quiesce", "db", "--hold", "10")
    assert (done.returncode, "nothing was held" in done.stderr) == (
        (1, "2" not in closed) if "1" in closed else (9, False)
    )
