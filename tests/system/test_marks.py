"""Marks of one daemon, started as users start it: by command, by itself, over restarts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.nbd_aio.connecting import connect
from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment, run_duplexctl

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon, DaemonFiles

VOLUMES = {"data": "4MiB", "wal": "4MiB"}
GROUPS = {"db": ["data", "wal"]}
MAIN = [sys.executable, "-c", "from duplexd.duplexctl.cli import main; main()"]


@pytest.fixture
def daemon(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Daemon:
    return start_daemon(make_files(volumes=VOLUMES, groups=GROUPS))


def ctl(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = run_duplexctl(daemon.files, *arguments)
    assert "Traceback" not in done.stderr
    return done


def answer(daemon: Daemon, *arguments: str) -> Any:
    done = ctl(daemon, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def asked(daemon: Daemon, method: str, path: str, **body: object) -> Any:
    status, found = daemon.request(method, path, body or None)
    assert status == 200, found
    return found


async def write(daemon: Daemon, volume: str, byte: bytes) -> None:
    async with connect(daemon.files.uri(volume)) as nbd:
        await nbd.write(0, byte * 4096)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_marks_and_cuts_are_listed_with_what_is_within_reach(daemon: Daemon) -> None:
    mark = answer(daemon, "mark", "db", "--tag", "first")
    assert (mark["verdict"], mark["group"], mark["volumes"]) == (
        "consistent",
        "db",
        ["data", "wal"],
    )
    await write(daemon, "data", b"\x01")
    cut = asked(daemon, "POST", "/v1/suspend", targets=["db"], tag="cut")
    await write(daemon, "data", b"\x02")
    assert ctl(daemon, "mark", "db", "--tag", "second").stdout.startswith("marked db: consistent")
    daemon.kill()
    daemon.start()
    await write(daemon, "data", b"\x03")
    asked(daemon, "POST", "/v1/marks", targets=["data"], tag="third")
    kept = answer(daemon, "points", "db", "--reach")["points"]
    assert [(each["kind"], each["tag"], each["within_reach"]) for each in kept] == [
        ("mark", "first", False),
        ("cut", "cut", True),
        ("mark", "second", True),
        ("mark", "third", False),  # a kill is an unclean stop
    ]
    assert (kept[0]["cut"], kept[1]["cut"]) == (mark["mark"], cut["cut"])
    assert kept[0]["controllers"] == mark["controllers"]
    assert "goes forwards only" in kept[0]["why"]
    shown = ctl(daemon, "points", "db", "--reach")
    assert (shown.returncode, len(shown.stdout.splitlines())) == (0, 5)
    assert [each["tag"] for each in asked(daemon, "GET", "/v1/cuts")["cuts"]] == ["cut"]

    def volumes() -> Any:
        return asked(daemon, "GET", "/v1/status")["volumes"]

    assert {each["secondary"]["cut"]["tag"] for each in volumes()} == {"cut"}
    asked(daemon, "POST", "/v1/resync", targets=["db"])
    until(lambda: {each["state"] for each in volumes()} == {"DUPLEX"})
    await write(daemon, "data", b"\x04")
    kept = asked(daemon, "GET", "/v1/points?target=data")["points"]
    assert {each["within_reach"] for each in kept} == {False}


async def test_a_verifier_reads_past_marks(daemon: Daemon) -> None:
    certificate = daemon.files.directory / "cut.json"
    asked(daemon, "POST", "/v1/marks", targets=["db"])
    await write(daemon, "data", b"\x01")
    answer(daemon, "suspend", "db", "--certificate", str(certificate))
    await write(daemon, "data", b"\x02")
    asked(daemon, "POST", "/v1/marks", targets=["db"])
    asked(daemon, "POST", "/v1/marks", targets=["data"])
    assert ctl(daemon, "verify-cut", str(certificate)).returncode == 0


def test_what_cannot_be_marked_is_said_with_an_exit_code(daemon: Daemon) -> None:
    for code, arguments in (
        (3, ("mark", "dta")),
        (2, ("mark", "db", "--tag", "x" * 201)),
        (2, ("mark", "db", "--every", "0.1")),
        (2, ("mark", "db", "--hold-max", "1")),
        (3, ("points", "dta", "--reach")),
    ):
        assert ctl(daemon, *arguments).returncode == code, arguments
    assert asked(daemon, "GET", "/v1/points")["points"] == []
    daemon.kill()
    assert ctl(daemon, "mark", "db").returncode == 7


def test_again_and_again_until_it_is_stopped(daemon: Daemon) -> None:
    command = [*MAIN, "--socket", str(daemon.files.control_socket), "--json", "mark", "db"]
    with subprocess.Popen(
        [*command, "--every", "1", "--tag", "each"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = json.loads(process.stdout.readline())
        daemon.kill()
        said = process.stderr.readline()
        assert "tried again every 1 s" in said
        daemon.start()
        second = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 128 + signal.SIGTERM
        assert "Traceback" not in process.stderr.read()
    assert first["mark"] != second["mark"]
    kept = answer(daemon, "points", "db", "--reach")["points"]
    assert {first["mark"], second["mark"]} <= {each["cut"] for each in kept}
    assert {each["tag"] for each in kept} == {"each"}


def metric(daemon: Daemon, name: str) -> float:
    _, text = daemon.request("GET", "/metrics")
    assert isinstance(text, str)
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


def test_a_group_with_mark_every_is_marked_by_itself_as_its_configuration_says(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    files = make_files(volumes=VOLUMES, groups=GROUPS, controller=["marks_kept = 16"])
    files.extra = 'mark_every = "1s"'  # of the group, which comes last
    daemon = start_daemon(files.write())
    until(lambda: metric(daemon, "duplexd_marks_total") >= 2)
    (group,) = daemon.request("GET", "/v1/status")[1]["groups"]
    assert group["mark_every_s"] == 1.0
    assert abs(time.time() - group["last_mark_time"]) < PATIENCE_SECONDS
    assert metric(daemon, "duplexd_last_mark_timestamp_seconds") >= group["last_mark_time"]
    findings = daemon.request("GET", "/v1/health")[1]["findings"]
    assert "mark-too-old" not in {each["kind"] for each in findings}
    for _ in range(20):
        daemon.request("POST", "/v1/marks", {"targets": ["data"]})
    assert len(daemon.request("GET", "/v1/points")[1]["points"]) == 16
    files.extra = ""
    files.write()
    assert ctl(daemon, "reload").returncode == 0
    (group,) = daemon.request("GET", "/v1/status")[1]["groups"]
    assert (group["mark_every_s"], group["last_mark_time"]) == (None, None)
    files.extra = 'mark_every = "0.5s"'
    files.write()
    refused = ctl(daemon, "reload")
    assert refused.returncode == 6
    assert "is not between 1 s and 10 years" in refused.stderr
