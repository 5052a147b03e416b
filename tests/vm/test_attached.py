"""`duplexd attach` in a guest, on volumes of a daemon on the host that is killed: a mounted ext4
and a program that fsyncs on it notice nothing but time.

One guest; each test takes its device away again. The daemon is reached over TCP, as from another
machine.
"""

from __future__ import annotations

import filecmp
import json
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import PATIENCE_SECONDS, free_port, run_duplexctl
from tests.vm.daemon_root import write_daemon_root
from tests.vm.guest_attach import MOUNT, GuestAttach
from tests.vm.machine import BOOT_TIMEOUT_S, HOST_ADDRESS, Machine, Root
from tests.vm.tools import run_tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1500)]

ROOT = Root(write_daemon_root, memory_mib=768, boot_timeout_s=BOOT_TIMEOUT_S)
VOLUME_BYTES = 32 << 20
GIB = 1 << 30
HOLD_S = 8
RESTARTS = 10
KILLED = 128 + signal.SIGKILL


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Machine(tmp_path_factory.mktemp("attached"), ROOT) as machine:
        yield machine


@pytest.fixture
def volume_bytes() -> int:
    return VOLUME_BYTES


@pytest.fixture
def daemon(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    volume_bytes: int,
) -> Daemon:
    files = make_files(volumes={"data": volume_bytes, "other": "1MiB"}, tcp_port=free_port())
    return start_daemon(files)


@pytest.fixture
def attach(guest: Machine, daemon: Daemon) -> Iterator[GuestAttach]:
    assert daemon.files.tcp_port
    attach = GuestAttach(guest, daemon.files.tcp_port)
    yield attach
    attach.clean_up()


def kill(daemon: Daemon) -> None:
    daemon.signal(signal.SIGKILL)
    daemon.wait()


def assert_legs_are_equal(daemon: Daemon) -> None:
    code, compared = daemon.request("POST", "/v1/verify", {"targets": ["data"]})
    assert (code, compared["equal"]) == (200, True)
    files = daemon.files
    assert filecmp.cmp(files.primary("data"), files.secondary_of("data"), shallow=False)


def test_what_the_driver_says_is_what_we_rely_on(guest: Machine) -> None:
    """Above all: it takes no socket in the place of a live one, and only the socket shows that."""
    found = json.loads(guest.run("driver"))
    assert found["busy"].startswith("/dev/nbd5 is in use")
    assert found["other_backend"].startswith("/dev/nbd5 is not attached any more, or to another")
    assert found["gone"].startswith("/dev/nbd5 is not attached any more")
    del found["busy"], found["other_backend"], found["gone"]
    assert found == {
        "before": False,
        "attached": [True, "backend text", 1 << 20],
        "read_only": "1",
        "block": "4096",
        "taken_beside_a_live_one": False,
        "noticed_before": False,
        "told": True,
        "noticed": [True, False],
        "taken": True,
        "after": False,
    }


def test_a_mounted_file_system_goes_on_when_the_daemon_is_killed_and_the_watcher_is_not_there(
    attach: GuestAttach, daemon: Daemon
) -> None:
    attach.start()
    assert attach.machine.run(f"blockdev --getsize64 {attach.path}") == str(VOLUME_BYTES)
    attach.make_file_system()
    attach.load.start()
    kill(daemon)
    daemon.start()
    attach.load.wait_for_files(2)
    assert attach.signal("TERM") == 0
    assert attach.events("left-attached")[0]["user"] == f"mounted on {MOUNT}"
    assert attach.is_attached()
    kill(daemon)  # while nobody watches
    attach.start()
    assert attach.events("taken-over")
    daemon.start()
    attach.load.wait_for_files(2)
    attach.load.stop()
    assert len(attach.events("reconnected")) == 2
    assert attach.load.trouble() == []
    attach.unmount()
    assert attach.signal("TERM") == 0
    assert not attach.is_attached()
    assert_legs_are_equal(daemon)


@pytest.mark.long
def test_a_mounted_file_system_grows_while_it_is_written(
    attach: GuestAttach, daemon: Daemon
) -> None:
    attach.start()
    attach.make_file_system()
    attach.load.start()
    blocks = attach.machine.run(f"stat -f -c %b {MOUNT}")
    grow(daemon, 2 * VOLUME_BYTES)
    attach.wait("the larger device", lambda: device_bytes(attach) == 2 * VOLUME_BYTES)
    assert attach.events("connection-lost") == []
    attach.machine.run(f"resize2fs {attach.path}")
    assert int(attach.machine.run(f"stat -f -c %b {MOUNT}")) > int(blocks) * 3 // 2
    attach.machine.run(f"dd if=/dev/zero of={MOUNT}/filled bs=1M count=36 conv=fsync 2>&1")
    attach.load.wait_for_files(2)
    kill(daemon)  # the kernel goes on with the size it has
    daemon.start()
    attach.load.wait_for_files(2)
    attach.load.stop()
    assert attach.load.trouble() == []
    attach.unmount()
    assert attach.signal("TERM") == 0
    assert_legs_are_equal(daemon)


@pytest.mark.long
@pytest.mark.parametrize("volume_bytes", [GIB])
def test_a_large_one_grows_between_two_cuts_and_over_a_restart(
    attach: GuestAttach, daemon: Daemon, tmp_path: Path
) -> None:
    attach.start()
    attach.make_file_system()
    attach.load.start()
    cuts = [cut(daemon, tmp_path / "before")]
    grow(daemon, 2 * GIB)
    attach.wait("the larger device", lambda: device_bytes(attach) == 2 * GIB)
    control(daemon, "restart")
    attach.machine.run(f"resize2fs {attach.path}")
    # The next files lie behind the old end
    attach.machine.run(f"fallocate -l {GIB} {MOUNT}/room")
    attach.load.wait_for_files(10)
    attach.machine.run(f"dd if=/dev/urandom of={MOUNT}/behind bs=1M count=16 conv=fsync 2>&1")
    control(daemon, "resync", "data", "--wait")
    cuts.append(cut(daemon, tmp_path / "after"))
    assert cuts == [GIB, 2 * GIB]
    attach.load.wait_for_files(2)
    control(daemon, "resync", "data", "--wait")
    attach.load.stop()
    assert attach.events("connection-lost") == []
    assert attach.load.trouble() == []
    attach.unmount()
    assert attach.signal("TERM") == 0
    assert_legs_are_equal(daemon)


def cut(daemon: Daemon, scratch: Path) -> int:
    """Suspend the pair. The second reader confirms the cut, and its file system is whole; returns
    how large it is.
    """
    scratch.mkdir()
    certificate, image = scratch / "certificate", scratch / "image"
    control(daemon, "suspend", "data", "--tag", scratch.name, "--certificate", str(certificate))
    control(daemon, "verify-cut", str(certificate))
    run_tool("cp", "--sparse=always", daemon.files.secondary_of("data"), image)
    run_tool("e2fsck", "-fy", image, ok=(0, 1))  # 1: its journal was replayed
    run_tool("e2fsck", "-fn", image)
    return image.stat().st_size


def grow(daemon: Daemon, size: int) -> None:
    daemon.files.volumes = {**daemon.files.volumes, "data": size}
    daemon.files.write()
    control(daemon, "reload")


def device_bytes(attach: GuestAttach) -> int:
    return int(attach.machine.run(f"blockdev --getsize64 {attach.path}"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("kills", "beside"), [(10, "a hold across one"), (4, "holds"), (4, "kills of the watcher")]
)
def test_kills_of_the_daemon_again_and_again(
    attach: GuestAttach, daemon: Daemon, kills: int, beside: str
) -> None:
    attach.start("--connections 2")
    attach.make_file_system()
    attach.load.start()
    for turn in range(kills):
        holder = threading.Thread(target=hold, args=(daemon,))
        if beside == "holds" or (beside == "a hold across one" and turn == kills // 2):
            holder.start()
            wait_until_held(daemon)
        kill(daemon)
        if beside == "kills of the watcher" and turn % 2:
            assert attach.signal("KILL") == KILLED
            attach.start("--connections 2")
            assert attach.events("taken-over")
        daemon.start()
        if holder.ident:
            holder.join()
        attach.load.wait_for_files(2)
    attach.wait("both connections", lambda: connections(daemon) == 2)
    if beside != "kills of the watcher":
        hold(daemon)  # to its end
        attach.load.wait_for_files(2)
    attach.load.stop()
    assert attach.load.trouble() == []
    attach.unmount()
    assert attach.signal("TERM") == 0
    assert_legs_are_equal(daemon)


@pytest.mark.long
def test_restarts_in_place_cost_no_connection(attach: GuestAttach, daemon: Daemon) -> None:
    attach.start("--connections 2")
    attach.make_file_system()
    attach.load.start()
    pid = daemon.pid
    for _ in range(RESTARTS):
        done = run_duplexctl(daemon.files, "restart", "--json")
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert (answer["clients_kept"], answer["clients_lost"]) == (2, 0)
        assert daemon.pid == pid
        attach.load.wait_for_files(2)
    attach.load.stop()
    assert [attach.events(name) for name in ("connection-lost", "reconnected")] == [[], []]
    assert attach.load.trouble() == []
    assert not [line for line in attach.machine.run("dmesg").splitlines() if "nbd" in line]
    attach.unmount()
    assert attach.signal("TERM") == 0
    assert_legs_are_equal(daemon)


@pytest.mark.long
def test_a_volume_that_went_back_is_not_handed_over(attach: GuestAttach, daemon: Daemon) -> None:
    """ext4 would write what it remembers over what it never had."""
    attach.start()
    attach.make_file_system()
    attach.load.start()
    control(daemon, "suspend", "data", "--tag", "back")
    attach.load.wait_for_files(2)
    control(daemon, "rollback", "data", "--to", "back", "--force", "--yes")
    attach.wait("the refusal", lambda: bool(attach.events("not-handed-over")))
    (refusal,) = attach.events("not-handed-over")
    assert "it is not the volume as it was" in refusal["error"]
    assert connections(daemon) == 0
    attach.machine.run(f"umount -l {MOUNT}; duplexd detach --force {attach.path}")
    attach.wait("the end of the watcher", lambda: bool(attach.events("detached")))
    attach.start()
    attach.machine.run(f"e2fsck -fy {attach.path}; mount {attach.path} {MOUNT}")


@pytest.mark.long
def test_what_is_wrong_is_said_and_changes_nothing(attach: GuestAttach) -> None:
    guest = attach.machine
    guest.run("rmmod nbd")
    try:
        refused = guest.outcome(f"duplexd attach {attach.uri} {attach.path}")
    finally:
        guest.run("insmod /modules/*-nbd.ko")
    assert (refused.status, "run `modprobe nbd`" in refused.output) == (5, True), refused
    refused = guest.outcome(f"duplexd attach {attach.uri}x {attach.path}")
    assert (refused.status, "datax" in refused.output) == (3, True), refused
    guest.run(f"nbd-client -N other {HOST_ADDRESS} {attach.port} {attach.path}")
    refused = guest.outcome(f"duplexd attach {attach.uri} {attach.path}")
    assert (refused.status, "is in use" in refused.output) == (5, True), refused
    assert json.loads(guest.run(f"duplexd detach {attach.path} --json")) == {
        "device": attach.path,
        "already": False,
    }
    attach.start()
    refused = guest.outcome(f"duplexd attach {attach.uri} {attach.path}")
    assert (refused.status, "another `duplexd attach` watches" in refused.output) == (5, True)
    attach.make_file_system()
    refused = guest.outcome(f"duplexd detach {attach.path}")
    assert (refused.status, f"mounted on {MOUNT}" in refused.output) == (5, True), refused
    attach.unmount()
    assert guest.run(f"duplexd detach {attach.path}") == f"{attach.path} is detached"
    attach.wait("the end of the watcher", lambda: bool(attach.events("detached")))


def connections(daemon: Daemon) -> int:
    return int(daemon.request("GET", "/v1/status")[1]["volumes"][0]["connections"])


def hold(daemon: Daemon) -> None:
    """As long as the daemon lives, or HOLD_S."""
    run_duplexctl(
        daemon.files, "quiesce", "data", "--hold", str(HOLD_S), "--", "sleep", str(HOLD_S)
    )


def wait_until_held(daemon: Daemon) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not daemon.request("GET", "/v1/status")[1]["volumes"][0]["held"]:
        assert time.monotonic() < deadline, "the hold did not begin"
        time.sleep(0.02)


def control(daemon: Daemon, *arguments: str) -> None:
    done = run_duplexctl(daemon.files, *arguments)
    assert done.returncode == 0, done.stderr
