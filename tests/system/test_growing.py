"""Volumes of a real daemon that grow while fio writes to them and compares what it reads: between
two cuts, over a restart and a `kill -9`.
"""

from __future__ import annotations

import filecmp
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import (
    PATIENCE_SECONDS,
    ROOT,
    Daemon,
    environment,
    run_duplexctl,
    run_duplexd,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import DaemonFiles

MIB = 1 << 20
SIZES = [32 * MIB, 64 * MIB, 96 * MIB]


def control(daemon: Daemon, *arguments: str) -> Any:
    done = run_duplexctl(daemon.files, "--json", *arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


def resync(daemon: Daemon) -> None:
    done = run_duplexctl(daemon.files, "resync", "data", "--wait")
    assert done.returncode == 0, done.stderr


def volume(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.request("GET", "/v1/status")[1]["volumes"][0]
    return found


def size_of(daemon: Daemon, export: str = "data") -> int:
    """As a client that connects now sees it."""
    uri = daemon.files.uri(export)
    done = subprocess.run(
        ["nbdinfo", "--size", uri],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def resize(daemon: Daemon, size: int) -> None:
    """In the file."""
    daemon.files.volumes = {"data": size}
    daemon.files.write()


@pytest.fixture
def fio() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Random writes of a range, each compared afterwards."""
    begun: list[subprocess.Popen[str]] = []

    def begin(daemon: Daemon, offset: int, size: int, rate: str = "8m") -> subprocess.Popen[str]:
        begun.append(_writer(daemon, offset, size, rate))
        return begun[-1]

    yield begin
    for each in begun:
        each.kill()
        if each.stdout is not None and not each.stdout.closed:
            each.communicate()


def _writer(daemon: Daemon, offset: int, size: int, rate: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            "fio", "--name=v", "--thread", "--ioengine=nbd", f"--uri={daemon.files.uri('data')}",
            "--rw=randwrite", "--bsrange=512-64k", f"--offset={offset}", f"--size={size}",
            "--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--serialize_overlap=1",
            f"--rate={rate}",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=daemon.files.directory,
    )  # fmt: skip


def written(daemon: Daemon, until: int) -> None:
    """Until that change is in the journal."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while volume(daemon)["sequence"] < until:
        assert time.monotonic() < deadline, volume(daemon)
        time.sleep(0.02)


def ended(writer: subprocess.Popen[str]) -> None:
    output, _ = writer.communicate(timeout=2 * PATIENCE_SECONDS)
    assert writer.returncode == 0, output
    assert "err= 0" in output, output


def test_a_volume_grows_twice_under_load_between_cuts_restarts_and_a_kill(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    fio: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    small, large, largest = SIZES
    daemon = start_daemon(make_files(volumes={"data": small}, journal_size="128MiB"))
    writer = fio(daemon, 0, 24 * MIB, "3m")
    written(daemon, 200)
    certificate = str(tmp_path / "before")
    control(daemon, "suspend", "data", "--tag", "before", "--certificate", certificate)
    resize(daemon, large)
    changes = control(daemon, "reload")["changes"]
    assert changes == ["volume data: size is now 64.0 MiB, and was 32.0 MiB"]
    row = volume(daemon)
    assert (row["size"], row["state"], row["connections"]) == (large, "SUSPENDED", 1)
    assert [size_of(daemon), size_of(daemon, "data@before")] == [large, small]
    assert [path.stat().st_size for path in images(daemon)] == [large, large]
    until = control(daemon, "changes", "data", "--since", "before", "--until", "before")
    assert until["volumes"][0]["size"] == small
    number = volume(daemon)["sequence"]
    another = fio(daemon, small, 16 * MIB, "32m")
    written(daemon, number + 200)
    checked = run_duplexctl(daemon.files, "verify-cut", certificate)
    assert checked.returncode == 0, checked
    resync(daemon)
    ended(another)
    ended(writer)
    assert control(daemon, "verify", "data")["equal"]

    # A larger size, and the daemon is killed while it takes it over.
    number = volume(daemon)["sequence"]
    another = fio(daemon, small, 16 * MIB)
    written(daemon, number + 100)
    resize(daemon, largest)
    daemon.signal(signal.SIGHUP)
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    another.kill()  # it does not notice
    another.communicate()
    daemon.start()
    assert (size_of(daemon), volume(daemon)["size"]) == (largest, largest)
    resync(daemon)
    ended(fio(daemon, large, 16 * MIB, "64m"))
    after = control(daemon, "suspend", "data", "--tag", "after")
    assert (after["verdict"], size_of(daemon, "data@after")) == ("consistent", largest)
    assert daemon.stop() == 0
    daemon.start()
    assert (size_of(daemon), volume(daemon)["state"]) == (largest, "SUSPENDED")
    resync(daemon)
    assert control(daemon, "verify", "data")["equal"]
    assert daemon.stop() == 0
    assert filecmp.cmp(*images(daemon), shallow=False)


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[list[Path]]:
    """Two loop devices, each the name of a file below it plus `.device`."""
    backing = [tmp_path / "disk-a", tmp_path / "disk-b"]
    nodes: list[Path] = []
    for file in backing:
        file.write_bytes(b"\xee" * SIZES[0])
        node = losetup("--find", "--show", str(file))
        nodes.append(file.with_suffix(".device"))
        nodes[-1].symlink_to(node)
    yield nodes
    for made in nodes:
        losetup("--detach", str(made.resolve()))


def losetup(*arguments: str) -> str:
    done = subprocess.run(
        ["losetup", *arguments], capture_output=True, text=True, check=True, timeout=100
    )
    return done.stdout.strip()


def enlarge(device: Path, size: int) -> None:
    """What `lvextend` does: the rest holds whatever was there."""
    with device.with_suffix("").open("ab") as file:
        file.write(b"\xee" * (size - file.tell()))
    losetup("--set-capacity", str(device.resolve()))


@pytest.mark.skipif(
    not os.access("/dev/loop-control", os.W_OK), reason="no right to make loop devices here"
)
def test_devices_are_enlarged_before_their_volume_grows_and_may_be_larger(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    devices: list[Path],
) -> None:
    """A start in between serves the volume as it was, and one after it, too."""
    small, large, largest = SIZES
    files = make_files(volumes={"data": small})
    for image, device in zip(
        (files.primary("data"), files.secondary_of("data")), devices, strict=True
    ):
        image.symlink_to(device)
    daemon = start_daemon(files)
    for device in devices:
        enlarge(device, largest)
    assert daemon.stop() == 0
    assert "has" not in run_duplexd("check", "--config", str(files.config)).stderr
    daemon.start()
    assert (size_of(daemon), volume(daemon)["served"]) == (small, True)
    resize(daemon, large)
    control(daemon, "reload")
    assert daemon.stop() == 0
    daemon.start()
    row = volume(daemon)
    assert (row["served"], row["size"], row["state"]) == (True, large, "DUPLEX")
    resize(daemon, largest)
    done = run_duplexctl(daemon.files, "restart")
    assert (done.returncode, "reload` first" in done.stderr) == (5, True), done
    assert size_of(daemon) == large
    assert daemon.stop() == 0
    daemon.start()
    assert size_of(daemon) == largest
    assert control(daemon, "verify", "data")["equal"]
    assert daemon.stop() == 0
    beyond = [device.read_bytes()[small:] for device in devices]
    assert beyond == [bytes(largest - small)] * 2


def images(daemon: Daemon) -> tuple[Path, Path]:
    return daemon.files.primary("data"), daemon.files.secondary_of("data")


def test_a_smaller_size_is_refused_by_check_by_reload_and_by_a_start(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    daemon = start_daemon(make_files(volumes={"data": SIZES[1]}))
    resize(daemon, SIZES[0])
    config = str(daemon.files.config)
    for done in (
        run_duplexd("check", "--config", config),
        run_duplexctl(daemon.files, "reload"),
    ):
        assert done.returncode == 6, done
        assert f"cannot shrink to {SIZES[0]}" in done.stdout + done.stderr
    done = run_duplexctl(daemon.files, "restart")
    assert (done.returncode, "cannot shrink" in done.stderr) == (5, True), done
    assert size_of(daemon) == SIZES[1]
    assert daemon.stop() == 0
    done = run_duplexd("check", "--config", config)
    assert f"cannot shrink to {SIZES[0]}" in done.stdout + done.stderr
    daemon.start()
    row = volume(daemon)
    assert (row["served"], "cannot shrink" in row["error"]) == (False, True)
    assert [path.stat().st_size for path in images(daemon)] == [SIZES[1]] * 2


# A daemon that dies when the images are longer, and the volume is not yet
DIES = """
import os, runpy, signal
from duplexd.engine.growing import Growing
Growing.mark = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
runpy.run_module("duplexd", run_name="__main__")
"""


def test_a_grow_that_was_killed_is_undone_once_the_smaller_size_is_back(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    small, large = SIZES[:2]
    daemon = start_daemon(make_files(volumes={"data": small}))
    control(daemon, "suspend", "data", "--tag", "before")
    assert daemon.stop() == 0
    before = daemon.files.primary("data").read_bytes()
    resize(daemon, large)
    config = str(daemon.files.config)
    died = subprocess.run(
        [sys.executable, "-c", DIES, "run", "--config", config],
        capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
        cwd=ROOT, env=environment(),
    )  # fmt: skip
    assert died.returncode == -signal.SIGKILL, died
    assert [path.stat().st_size for path in images(daemon)] == [large, large]
    resize(daemon, small)
    done = run_duplexd("check", "--config", config)
    assert (done.returncode, "has" in done.stderr) == (0, False), done
    daemon.start()
    row = volume(daemon)
    assert (row["served"], row["size"], row["state"]) == (True, small, "SUSPENDED")
    assert row["secondary"]["usable"]
    daemon.wait_log("grow-undone", str(daemon.files.secondary_of("data")))
    assert [path.read_bytes() == before for path in images(daemon)] == [True, True]
    resync(daemon)
    daemon.kill()
    daemon.start()
    assert (volume(daemon)["served"], volume(daemon)["state"]) == (True, "DUPLEX")
    assert daemon.log().count("grow-undone") == 2  # one of each image

    # One that is longer for another reason is refused, as ever
    assert daemon.stop() == 0
    with daemon.files.primary("data").open("r+b") as file:
        file.truncate(large)
    done = run_duplexd("check", "--config", config)
    assert f"has {large} bytes" in done.stdout + done.stderr, done
    daemon.files.controller = ['on_start_error = "refuse"']
    daemon.files.write()
    for command in ("check", "run"):
        done = run_duplexd(command, "--config", config)
        assert (done.returncode, f"has {large} bytes" in done.stderr) == (6, True), done


def test_check_says_that_a_volume_would_grow_and_changes_nothing(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    daemon = start_daemon(make_files(volumes={"data": SIZES[0]}))
    resize(daemon, SIZES[1])
    config = str(daemon.files.config)
    for state in ("running", "stopped"):
        if state == "stopped":
            daemon.stop()
        done = run_duplexd("check", "--config", config)
        assert done.returncode == 0, done
        assert "has" not in done.stderr, done.stderr
        assert [path.stat().st_size for path in images(daemon)] == [SIZES[0]] * 2
    with daemon.files.primary("data").open("r+b") as file:
        file.truncate(SIZES[0] // 2)  # no image of a volume that grows
    done = run_duplexd("check", "--config", config)
    assert f"has {SIZES[0] // 2} bytes" in done.stdout + done.stderr, done
