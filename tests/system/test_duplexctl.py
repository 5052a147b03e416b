"""duplexctl with a real daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from duplexd.api.models.cut_model import Suspended
from duplexd.api.models.line_model import Event, ResyncDone, Verified
from tests.support.daemon import ROOT, environment, run_duplexctl

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon, DaemonFiles

MAIN = [sys.executable, "-c", "from duplexd.duplexctl.cli import main; main()"]


@pytest.fixture
def pair_daemon(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> Daemon:
    return start_daemon(
        make_files(volumes={"data": "8MiB", "wal": "8MiB"}, groups={"db": ["data", "wal"]})
    )


def test_a_backup_from_start_to_finish(pair_daemon: Daemon) -> None:
    files = pair_daemon.files
    done = run_duplexctl(files, "suspend", "db", "--tag", "nightly", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert Suspended.model_validate_json(done.stdout).verdict == "consistent"
    assert "SUSPENDED" in run_duplexctl(files, "status", "db").stdout
    again = run_duplexctl(files, "suspend", "db", "--tag", "tomorrow")
    assert (again.returncode, again.stdout) == (5, "")
    assert "(tag 'nightly', " in again.stderr  # it is no backup of tomorrow
    again = run_duplexctl(files, "suspend", "db", "--allow-existing")
    assert again.stdout.startswith("already suspended")
    done = run_duplexctl(files, "resync", "db", "--wait", "--json")
    assert done.returncode == 0
    assert ResyncDone.model_validate_json(done.stdout.splitlines()[-1]).ok
    assert Verified.model_validate_json(run_duplexctl(files, "verify", "db", "--json").stdout).equal
    lines = run_duplexctl(files, "events", "--json").stdout.splitlines()
    assert [Event.model_validate_json(line).event for line in lines] == ["state", "synced"]


def test_the_sequence_of_the_patent_quiesce_suspend_signal(pair_daemon: Daemon) -> None:
    inner = (
        f'{sys.executable} -c "from duplexd.duplexctl.cli import main; main()" --socket'
        f" {pair_daemon.files.control_socket} "
    )
    inner += 'suspend db --lease "$DUPLEXD_LEASE"'
    done = run_duplexctl(
        pair_daemon.files, "quiesce", "db", "--hold", "10", "--", "sh", "-c", inner
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "consistent" in done.stdout


def test_quiesce_exits_with_9_if_the_hold_is_lost_before_its_command_ends(
    pair_daemon: Daemon,
) -> None:
    until_lost = f"until grep -q released {pair_daemon.log_path}; do sleep 0.02; done"
    assert (
        run_duplexctl(
            pair_daemon.files, "quiesce", "db", "--hold", "0.2", "--", "sh", "-c", until_lost
        ).returncode
        == 9
    )
    assert (
        run_duplexctl(
            pair_daemon.files, "quiesce", "db", "--hold", "10", "--", "sh", "-c", "exit 3"
        ).returncode
        == 3
    )


def test_a_hold_ends_at_once_when_its_owner_is_killed(pair_daemon: Daemon) -> None:
    command = [
        *MAIN,
        "--socket",
        str(pair_daemon.files.control_socket),
        "quiesce",
        "db",
        "--hold",
        "10",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), cwd=ROOT) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().startswith(b"lease ")
        leases = pair_daemon.request("GET", "/v1/status")[1]["leases"]
        assert len(leases) == 1
        os.kill(owner.pid, 9)
    assert pair_daemon.hold_ended(leases[0]["id"])["reason"] == "owner gone"
    assert pair_daemon.request("GET", "/v1/status")[1]["leases"] == []
    assert (
        run_duplexctl(pair_daemon.files, "suspend", "db", "--lease", leases[0]["id"]).returncode
        == 9
    )
    assert run_duplexctl(pair_daemon.files, "suspend", "db").returncode == 0


def test_exit_codes(pair_daemon: Daemon, make_files: Callable[..., DaemonFiles]) -> None:
    files = pair_daemon.files
    assert run_duplexctl(files, "status", "nope").returncode == 3
    assert run_duplexctl(files, "release", "nope").returncode == 3
    assert run_duplexctl(files, "nope").returncode == 2
    assert run_duplexctl(files, "suspend", "data").returncode == 0
    mixed = run_duplexctl(files, "suspend", "db")
    assert mixed.returncode == 5
    assert mixed.stderr.startswith("duplexctl: ")
    assert pair_daemon.stop() == 0
    assert run_duplexctl(files, "status").returncode == 7
