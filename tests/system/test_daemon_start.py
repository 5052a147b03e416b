"""A start on a bad day: what is missing for a moment is waited for, what is full or scarce is no
reason to stay down, and the control socket says what is going on from the first moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from duplexd.nbd_aio.connecting import connect
from duplexd.runtime.locked import open_locked
from tests.support.daemon import (
    PATIENCE_SECONDS,
    Daemon,
    DaemonFiles,
    run_duplexctl,
    run_duplexd,
)
from tests.support.fuse import faulty_disk
from tests.support.notify import ServiceManager
from tests.system.test_full_disk import SmallDisk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    found = ServiceManager(tmp_path / "notify")
    yield found
    found.close()


@pytest.fixture
def stuck(daemon: Daemon) -> Iterator[Daemon]:
    """A daemon in a recovery that hangs at reading its checkpoint, which is a pipe, until `go_on`;
    its controller was killed before.
    """
    daemon.kill()
    checkpoint = daemon.files.state_dir / "checkpoint"
    checkpoint.rename(checkpoint.with_name("kept"))
    os.mkfifo(checkpoint)
    daemon.start(ready=False)
    daemon.wait_log("reading the journal", after=len(daemon.lines()))
    yield daemon
    daemon.kill()


def go_on(daemon: Daemon) -> None:
    """The disk answers at last."""
    checkpoint = daemon.files.state_dir / "checkpoint"
    checkpoint.write_bytes(checkpoint.with_name("kept").read_bytes())


# ------------------------------------------------------------------------- while it recovers


def test_the_control_socket_answers_while_recovery_hangs(stuck: Daemon) -> None:
    code, status = stuck.request("GET", "/v1/status")
    assert (code, status["volumes"]) == (200, [])
    assert status["controller"]["name"] == "test"
    assert status["controller"]["starting"] == {
        "text": "recovering, 0 % (reading the journal)",
        "fraction": 0.0,
    }
    health = stuck.request("GET", "/healthz")
    assert (health[0], health[1]["status"]) == (200, "starting")
    assert "duplexd_start_ratio 0.0" in stuck.request("GET", "/metrics")[1]
    assert stuck.request("GET", "/openapi.json")[0] == 200
    go_on(stuck)
    stuck.wait_ready()
    status = stuck.request("GET", "/v1/status")[1]
    assert [volume["state"] for volume in status["volumes"]] == ["DUPLEX"]
    assert status["controller"].get("starting") is None
    assert "duplexd_start_ratio 1.0" in stuck.request("GET", "/metrics")[1]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/readyz", None),
        ("GET", "/v1/status?target=data", None),
        ("GET", "/v1/events", None),
        ("POST", "/v1/suspend", {"targets": ["data"]}),
        ("POST", "/v1/quiesce", {"targets": ["data"]}),
    ],
)
def test_what_needs_the_controller_is_refused_until_it_is_there(
    stuck: Daemon, method: str, path: str, body: object
) -> None:
    code, problem = stuck.request(method, path, body)
    assert (code, problem["exit_code"]) == (503, 7)
    assert problem["detail"] == (
        "the daemon is not ready: recovering, 0 % (reading the journal); try again"
    )


@pytest.mark.parametrize("command", [["status"], ["status", "data"], ["suspend", "data"]])
def test_duplexctl_says_what_the_start_is_at(stuck: Daemon, command: list[str]) -> None:
    result = run_duplexctl(stuck.files, *command)
    assert result.returncode == 7
    assert "the daemon is not ready: recovering, 0 % (reading the journal)" in result.stderr


def test_a_stop_does_not_wait_for_a_recovery_that_hangs(stuck: Daemon) -> None:
    assert stuck.stop() == 0
    assert "stopped during the start" in stuck.log()
    assert not stuck.files.control_socket.exists()


def test_a_stop_does_not_wait_for_a_state_directory_that_hangs(
    tmp_path: Path, make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    """Nothing is locked yet, and the control socket is not there; but the log says why."""
    with faulty_disk(tmp_path / "state") as disk:
        (tmp_path / "state").chmod(0o700)
        daemon = start_daemon(make_files())
        daemon.kill()
        disk.hang("open create attribute")
        daemon.start(ready=False)
        daemon.wait_log("the disk of the state directory does not answer")
        assert daemon.stop() == 0
        assert "stopped during the start" in daemon.log()


def test_systemd_shows_what_the_start_is_at(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    manager: ServiceManager,
) -> None:
    daemon = start_daemon(make_files(), env=manager.environment())
    manager.wait("STATUS=recovering, 95 % (writing the first checkpoint)")
    manager.wait("READY=1")
    assert daemon.stop() == 0
    manager.wait("STATUS=stopping")


# -------------------------------------------------------------------- what passes by itself


def test_a_port_that_somebody_has_for_a_moment_is_waited_for(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    manager: ServiceManager,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        files = make_files(tcp_port=port)
        daemon = start_daemon(files, ready=False, env=manager.environment())
        line = daemon.wait_log("not possible yet, trying again")
        assert f"nbd.listen: cannot listen on tcp:127.0.0.1:{port}: Address already in use" in line
        manager.wait(f"STATUS=waiting: {files.config}: nbd.listen: cannot listen")
        waiting = daemon.request("GET", "/v1/status")[1]["controller"]["starting"]["text"]
        assert waiting.startswith("waiting: ")
        assert daemon.request("GET", "/readyz")[0] == 503
    daemon.wait_ready()


def test_an_image_that_another_process_has_for_a_moment_is_waited_for(daemon: Daemon) -> None:
    assert daemon.stop() == 0
    files, image = daemon.files, str(daemon.files.primary("data"))
    text = files.config.read_text()
    files.config.write_text(text.replace("[nbd]", 'on_start_error = "refuse"\n[nbd]'))
    descriptor, _ = open_locked(image)
    try:
        daemon.start(ready=False)
        daemon.wait_log("not possible yet, trying again", f"{image}: in use already")
    finally:
        os.close(descriptor)
    daemon.wait_ready()


def test_an_address_that_does_not_come_is_left_to_systemd_in_the_end(
    make_files: Callable[..., DaemonFiles],
) -> None:
    """What `check` says at once, `run` says after its patience; neither is the file's fault."""
    files = make_files(listen=["tcp:192.0.2.77:10899", "tcp:no.such.host.invalid:10899"])
    result = run_duplexd("check", "--config", str(files.config))
    assert result.returncode == 5
    assert "nbd.listen[1]: 'tcp:192.0.2.77:10899' is not an address of this machine" in (
        result.stderr
    )
    assert "nbd.listen[2]: 'tcp:no.such.host.invalid:10899' is not an address" in result.stderr


# ------------------------------------------------------------------------ what is full, or scarce


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "state", 24 * MIB)
    yield disk
    disk.unmount()


def test_a_start_needs_no_room_on_a_disk_that_others_have_filled(
    full_disk: SmallDisk, start_daemon: Callable[..., Daemon]
) -> None:
    """Killed while the disk of state_dir is full to the last byte. Needs root."""
    daemon = start_daemon()
    try:
        reserve = daemon.files.state_dir / "reserve"
        wait(lambda: reserve.exists() and reserve.stat().st_size >= 4 * MIB)
        fill(full_disk.path / "foreign")
        daemon.kill()
        daemon.start()  # with the reserve of checkpoints
        assert daemon.request("POST", "/v1/suspend", {"targets": ["data"]})[0] == 200
        daemon.wait_log("no room; the reserve is used")
        daemon.kill()
        (daemon.files.state_dir / "reserve.checkpoint").unlink(missing_ok=True)
        fill(full_disk.path / "foreign-too")
        daemon.start()
        assert daemon.request("POST", "/v1/resync", {"targets": ["data"]})[0] == 200
        daemon.wait_log("the reserve is given back")
        wait(reserve.exists)
        assert daemon.stop() == 0
    finally:
        daemon.kill()


def wait(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                if not file.write(bytes(4096)):
                    return
            except OSError:
                return


async def test_strangers_do_not_take_the_descriptors_that_the_journal_needs(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    """More connections than it has descriptors: the client that was there before goes on writing,
    while the journal begins one segment after the other.
    """
    files = make_files({"data": "64MiB"}, journal_size="64MiB")
    daemon = start_daemon(files, prefix=["sh", "-c", 'ulimit -n 160; exec "$@"', "sh"])
    with contextlib.ExitStack() as strangers:
        async with connect(files.uri("data")) as client:
            await client.write(0, bytes(4096))
            for _ in range(200):
                stranger = strangers.enter_context(socket.socket(socket.AF_UNIX))
                await asyncio.to_thread(stranger.connect, str(files.nbd_socket))
            for place in range(60):
                await client.write(place * MIB, os.urandom(MIB))
    metrics = daemon.request("GET", "/metrics")[1]
    assert "duplexd_nbd_connections_refused_total 0.0" not in metrics
    assert len(os.listdir(f"/proc/{daemon.pid}/fd")) < 160 - 32
    assert daemon.stop() == 0


# --------------------------------------------------------------------------- what is missing


def test_systemd_and_the_log_name_a_mirror_that_is_missing(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    manager: ServiceManager,
) -> None:
    daemon = start_daemon(make_files({"data": "8MiB", "wal": "8MiB"}), env=manager.environment())
    assert daemon.stop() == 0
    manager.take_all()  # or there is no room for more
    daemon.files.secondary_of("wal").unlink()
    daemon.start()
    manager.wait("STATUS=serving 2 volumes; wal: secondary: ")
    daemon.wait_log('"event": "ready"', "serving 2 volumes; wal: secondary: the image is missing")
    assert daemon.stop() == 0


def test_systemd_and_the_log_name_a_volume_that_is_not_served(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    manager: ServiceManager,
) -> None:
    daemon = start_daemon(make_files({"data": "8MiB", "wal": "8MiB"}), env=manager.environment())
    assert daemon.request("POST", "/v1/suspend", {"targets": ["wal"]})[0] == 200
    assert daemon.stop() == 0
    manager.take_all()  # or there is no room for more
    daemon.files.primary("wal").unlink()
    daemon.start()
    manager.wait("STATUS=serving 1 of 2 volumes; wal: not served: ")
    assert str(daemon.files.primary("wal")) in daemon.wait_log("serving 1 of 2 volumes")
    assert daemon.stop() == 0


def test_a_first_start_beside_existing_images_is_a_warning(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    """The state directory may be a mount point without its disk."""
    files = make_files()
    files.primary("data").write_bytes(bytes(8 << 20))
    files.secondary_of("data").write_bytes(b"x" * (8 << 20))
    daemon = start_daemon(files)
    daemon.wait_log('"event": "ready"')
    log = daemon.log()
    assert "has no state of a controller, but 2 of its images exist" in log
    assert '"event": "secondary-overwritten"' in log
    assert daemon.stop() == 0
