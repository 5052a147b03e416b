"""What was flushed is there after a power cut, by the disks' own account.

The daemon runs in the guest with both images and the file system of its journal on disks that log
what becomes durable (dm-log-writes). A client writes, flushes, and marks the logs; meanwhile the
pair is suspended and resynchronized. Then the disks are made as they were at each of the marks, if
all that was not flushed had been lost, and a daemon recovers them on the host.

The negative control is the same daemon on a file system that is mounted without barriers from some
moment on: the disk is not asked to flush, whatever the daemon does.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.daemon import Daemon, DaemonFiles
from tests.support.sockets import Talk
from tests.vm.daemon_root import write_daemon_root
from tests.vm.guest_daemon import STATE_MOUNT, GuestDaemon
from tests.vm.guest_disks import GuestDisk
from tests.vm.log_writes import Replay
from tests.vm.machine import BOOT_TIMEOUT_S, Machine, Root
from tests.vm.promises import BLOCK_BYTES, Moment, findings, moments
from tests.vm.receiver import fetch
from tests.vm.tools import run_tool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1500)]

ROOT = Root(write_daemon_root, memory_mib=1024, boot_timeout_s=BOOT_TIMEOUT_S)
VOLUME_MIB, STATE_MIB = 16, 64
VOLUME_BYTES = VOLUME_MIB << 20
BLOCKS = VOLUME_BYTES // BLOCK_BYTES
ROUNDS = 8
PROMISES = "/run/promises"
READ_BYTES = 1 << 20


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Machine(tmp_path_factory.mktemp("machine"), ROOT) as machine:
        machine.run("mount -t tmpfs none /srv")
        yield machine


class Logs(NamedTuple):
    """What was fetched of a run: the disks' logs by name, and what the client was promised."""

    disks: dict[str, Path]
    sizes: dict[str, int]
    moments: dict[str, Moment]


def run_guest(guest: Machine, directory: Path, prefix: str, *, barriers: bool) -> Logs:
    """Write, flush and mark, while the pair is suspended and resynchronized."""
    state, primary, secondary = disks = [
        GuestDisk(guest, f"{prefix}-{name}", number, size)
        for number, (name, size) in enumerate(
            [("state", STATE_MIB), ("primary", VOLUME_MIB), ("secondary", VOLUME_MIB)]
        )
    ]
    for disk in disks:
        disk.create()
        disk.log_writes()
    guest.run(
        f"mkfs.ext4 -q -F {state.path} && mkdir -p {STATE_MOUNT} && "
        f"mount {state.path} {STATE_MOUNT}"
    )
    daemon = GuestDaemon(guest, primary, secondary, state)
    daemon.configure()
    daemon.start()
    daemon.wait("a mirror", lambda: daemon.state_and_reason()[0] == "DUPLEX")
    if not barriers:
        guest.run(f"mount -o remount,barrier=0 {STATE_MOUNT}")
    names = " ".join(disk.name for disk in disks)
    guest.run(
        f": >{PROMISES}; (setsid promises {ROUNDS} {BLOCKS} {PROMISES} {names} "
        ">/run/promises.out 2>&1; echo $? >/run/promises.status) >/dev/null 2>&1 &"
    )

    def marks() -> int:
        return int(guest.outcome(f"grep -c ^mark {PROMISES}").output or 0)

    daemon.wait("some marks", lambda: marks() > ROUNDS // 2)
    daemon.suspend()
    daemon.wait("more marks", lambda: marks() > ROUNDS)
    daemon.resync()
    guest.run("while [ ! -s /run/promises.status ]; do sleep 0.1; done")
    assert guest.run("cat /run/promises.status; cat /run/promises.out") == "0"
    daemon.stop()
    guest.run(f"umount {STATE_MOUNT}; rm /run/promises.status /run/daemon.pid")
    logs = {}
    for disk, name in zip(disks, ("state", "primary", "secondary"), strict=True):
        disk.make_good()
        logs[name] = directory / f"{name}.log"
        fetch(guest, disk.log, logs[name])
        disk.remove()
    fetch(guest, PROMISES, directory / "promises")
    sizes = {name: disk.size_mib << 20 for name, disk in zip(logs, disks, strict=True)}
    return Logs(logs, sizes, moments((directory / "promises").read_text()))


def recovered(directory: Path) -> bytes:
    """What the volume holds when a daemon has recovered the disks in the directory; its legs are
    equal then, or one is known to be behind.
    """
    run_tool("e2fsck", "-y", "-E", "journal_only", directory / "state.img")
    run_tool("debugfs", "-R", f"rdump /guest {directory}", directory / "state.img")
    files = DaemonFiles(directory, volumes={"data": VOLUME_BYTES}, name="guest").write()
    (directory / "guest").rename(files.state_dir)
    (directory / "primary.img").rename(files.primary("data"))
    (directory / "secondary.img").rename(files.secondary_of("data"))
    daemon = Daemon(files).start()
    try:
        status = daemon.request("GET", "/v1/status")[1]
        assert status["volumes"][0]["served"], json.dumps(status["volumes"][0])
        talk = Talk(files.nbd_socket, "data")
        try:
            content = b"".join(
                talk.read(offset, READ_BYTES) for offset in range(0, VOLUME_BYTES, READ_BYTES)
            )
        finally:
            talk.close()
        if status["volumes"][0]["state"] == "DUPLEX":
            verified = daemon.request("POST", "/v1/verify", {"targets": ["data"]})[1]
            assert verified["equal"], json.dumps(verified)
        assert daemon.stop() == 0
    finally:
        daemon.kill()
    return content


def broken_promises(logs: Logs, scratch: Path) -> Iterator[tuple[str, list[str]]]:
    """Marks at which a power cut would have cost something, in order, and what."""
    replays = {
        name: Replay(log, scratch / f"{name}.img", logs.sizes[name])
        for name, log in logs.disks.items()
    }
    for mark, moment in logs.moments.items():
        directory = scratch / mark
        directory.mkdir()
        for name, replay in replays.items():
            replay.until(mark)
            shutil.copyfile(scratch / f"{name}.img", directory / f"{name}.img")
        try:
            found = findings(recovered(directory), moment)
        except AssertionError as error:  # it does not recover, or its legs are not what it says
            found = [str(error)]
        shutil.rmtree(directory)
        if found:
            yield mark, found


def test_what_was_flushed_is_there_after_a_power_cut(guest: Machine, tmp_path: Path) -> None:
    logs = run_guest(guest, tmp_path, "honest", barriers=True)
    assert len(logs.moments) == 2 * ROUNDS
    assert logs.moments[f"flushed-{ROUNDS - 1}"].flushed
    assert list(broken_promises(logs, tmp_path)) == []


def test_a_journal_on_a_disk_that_is_not_flushed_is_found_out(
    guest: Machine, tmp_path: Path
) -> None:
    logs = run_guest(guest, tmp_path, "lying", barriers=False)
    assert next(broken_promises(logs, tmp_path), None), "it proves nothing"
