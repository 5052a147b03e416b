"""The real daemon: start, stop, notification of the service manager, refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from duplexd.nbd_server.listeners import STOP_SECONDS_DEFAULT
from tests.support.daemon import PATIENCE_SECONDS, Daemon, DaemonFiles, environment, run_duplexd
from tests.support.notify import ServiceManager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STOPS_MAX = 10


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    found = ServiceManager(tmp_path / "notify")
    yield found
    found.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_with_exit_code_0_and_removes_the_sockets(
    daemon: Daemon, number: signal.Signals
) -> None:
    assert daemon.files.nbd_socket.is_socket()
    assert daemon.files.control_socket.is_socket()
    daemon.signal(number)
    assert daemon.wait() == 0
    assert not daemon.files.nbd_socket.exists()
    assert not daemon.files.control_socket.exists()


def test_idle_clients_do_not_delay_a_stop(daemon: Daemon) -> None:
    """A stop that waited for idle clients would take that long each time; a busy machine may, but
    not always.
    """
    for _ in range(STOPS_MAX):
        with socket.socket(socket.AF_UNIX) as nbd, socket.socket(socket.AF_UNIX) as control:
            nbd.connect(str(daemon.files.nbd_socket))
            control.connect(str(daemon.files.control_socket))
            assert nbd.recv(8) == b"NBDMAGIC"
            began = time.monotonic()
            assert daemon.stop() == 0
            if time.monotonic() - began < STOP_SECONDS_DEFAULT:
                return
        daemon.start()
    raise AssertionError("it waits for them")


def test_it_starts_again_after_a_clean_stop_and_after_a_kill(daemon: Daemon) -> None:
    assert daemon.stop() == 0
    daemon.start()
    daemon.kill()
    assert daemon.files.control_socket.exists()  # left behind, and taken over
    daemon.start()
    assert daemon.request("GET", "/v1/status")[1]["volumes"][0]["state"] == "DUPLEX"
    assert daemon.stop() == 0


def test_the_log_is_json_lines_one_for_each_change_of_state(daemon: Daemon) -> None:
    assert daemon.stop() == 0
    lines = [json.loads(line) for line in daemon.log().splitlines()]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    events = [line["event"] for line in lines]
    assert [event for event in events if event in {"starting", "ready", "stopping", "stopped"}] == [
        "starting",
        "ready",
        "stopping",
        "stopped",
    ]


def test_a_second_daemon_on_the_same_state_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    files = DaemonFiles(other, {"x": "8MiB"}).write()
    files.config.write_text(
        files.config.read_text().replace(str(files.state_dir), str(daemon.files.state_dir))
    )
    result = run_duplexd("run", "--config", str(files.config))
    assert result.returncode == 5
    assert result.stderr.splitlines()[-1] == (
        f"duplexd: {files.config}: controller.state_dir: '{daemon.files.state_dir}' is in use by "
        f"another duplexd, process {daemon.pid}; stop that one first, "
        "or configure another state_dir"
    )
    assert not files.primary("x").exists()
    assert daemon.request("GET", "/readyz")[0] == 200


# --------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["--help"], 0),
        ([], 2),
        (["fly"], 2),
        (["run"], 2),
        (["run", "--config"], 2),
        (["run", "--config", "/nonexistent/duplexd.toml"], 6),
        (["check", "--config", "/nonexistent/duplexd.toml"], 6),
        (["journal", "inspect", "/nonexistent"], 2),
        (["journal", "inspect", "/"], 2),
    ],
)
def test_exit_codes(arguments: list[str], code: int) -> None:
    result = run_duplexd(*arguments)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr


def unprivileged() -> list[str]:
    """A command prefix without root's override of permissions; empty if the tests do not run as
    root.
    """
    if os.geteuid():
        return []
    setpriv = shutil.which("setpriv")
    assert setpriv, "setpriv is missing: install util-linux"
    return [setpriv, "--bounding-set=-all", "--inh-caps=-all"]


@pytest.mark.parametrize("place", ["controller.state_dir", "volumes.data.primary"])
def test_a_path_without_write_permission_is_exit_code_4(
    place: str, make_files: Callable[..., DaemonFiles], tmp_path: Path
) -> None:
    files = make_files()
    locked = files.directory / "locked"
    locked.mkdir(mode=0o500)
    victim = files.state_dir if place == "controller.state_dir" else files.primary("data")
    files.config.write_text(files.config.read_text().replace(f'"{victim}"', f'"{locked / "x"}"'))
    command = [
        *unprivileged(),
        sys.executable,
        "-m",
        "duplexd",
        "run",
        "--config",
        str(files.config),
    ]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=environment(),
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 4, result.stderr
    assert result.stderr.splitlines()[-1] == (
        f"duplexd: {files.config}: {place}: '{locked}' cannot be written by user {os.geteuid()}; "
        "change its owner or mode"
    )


# ---------------------------------------------------------------------------------- service manager


def test_the_service_manager_is_notified_of_recovery_ready_watchdog_and_stop(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    manager: ServiceManager,
) -> None:
    daemon = start_daemon(make_files(), ready=False, env=manager.environment(watchdog_s=2.0))
    manager.wait("READY=1")
    assert daemon.request("GET", "/readyz")[0] == 200
    assert "STATUS=serving 1 volumes" in manager.messages[manager.having("READY=1")[0]].splitlines()
    manager.wait("WATCHDOG=1", count=3)
    assert daemon.stop() == 0
    manager.take_all()
    assert len(manager.having("READY=1")) == 1
    assert manager.having("STOPPING=1")
    assert manager.having("WATCHDOG=1")[0] > manager.having("READY=1")[0]


def test_recovery_asks_the_service_manager_for_time(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    manager: ServiceManager,
) -> None:
    daemon = start_daemon(make_files(), env=manager.environment())
    manager.wait("READY=1")
    daemon.kill()
    manager.take_all()
    manager.messages.clear()
    daemon.start()
    manager.wait("READY=1")
    ready = manager.having("READY=1")[0]
    asked = manager.having("EXTEND_TIMEOUT_USEC=60000000")
    assert asked
    assert max(asked) < ready
    assert all("STATUS=" in manager.messages[place] for place in asked)


def test_the_service_manager_is_notified_of_a_reload(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    manager: ServiceManager,
) -> None:
    daemon = start_daemon(make_files(), env=manager.environment())
    manager.wait("READY=1")
    daemon.signal(signal.SIGHUP)
    manager.wait("READY=1", count=2)
    reloading = manager.messages[manager.having("RELOADING=1")[0]].splitlines()
    stamps = [line for line in reloading if line.startswith("MONOTONIC_USEC=")]
    assert int(stamps[0].removeprefix("MONOTONIC_USEC=")) > 0
    assert manager.having("READY=1")[1] > manager.having("RELOADING=1")[0]


# ------------------------------------------------------------------------------------------ journal


def test_a_journal_is_inspected_once_the_daemon_is_stopped(daemon: Daemon) -> None:
    state = str(daemon.files.state_dir)
    refused = run_duplexd("journal", "inspect", state)
    assert (refused.returncode, refused.stdout) == (5, "")
    assert (
        refused.stderr
        == f"duplexd: {state}: in use by a running duplexd; stop it first, or inspect a copy\n"
    )
    assert daemon.request("POST", "/v1/suspend", {"targets": ["data"], "tag": "nightly"})[0] == 200
    assert daemon.stop() == 0
    for directory in (state, f"{state}/journal"):
        lines = run_duplexd("journal", "inspect", directory).stdout.splitlines()
        assert lines[0].startswith("checkpoint ")
        assert lines[-1].startswith("verdict     end, last record ")
    result = run_duplexd("journal", "inspect", state, "--json")
    found = json.loads(result.stdout)
    assert (result.returncode, found["verdict"]["verdict"]) == (0, "end")
    numbers = [
        entry["sequence"] for entry in found["entries"] if entry["type"] in {"record", "marker"}
    ]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert [
        entry["marker"]["tag"]
        for entry in found["entries"]
        if entry.get("marker", {}).get("m") == "cut"
    ] == ["nightly"]


def test_damage_in_a_journal_is_a_verdict_and_stops_the_daemon(daemon: Daemon) -> None:
    for _ in range(3):
        assert daemon.request("POST", "/v1/suspend", {"targets": ["data"]})[0] == 200
        assert daemon.request("POST", "/v1/resync", {"targets": ["data"], "wait": True})[0] == 200
    assert daemon.stop() == 0
    segment = daemon.files.state_dir / "journal" / "0000.seg"
    with segment.open("r+b") as file:
        file.write(b"\xff" * 4096)
    result = run_duplexd("journal", "inspect", str(daemon.files.state_dir))
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1].startswith("verdict     damage")
    daemon.start(ready=False)
    assert daemon.wait() == 1
    last = daemon.log().splitlines()[-1]
    assert last.startswith("duplexd: ")
    assert str(segment) in last
