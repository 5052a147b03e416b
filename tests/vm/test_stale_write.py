"""A write that Linux sent twice, because its first connection was silent for 30 s.

The kernel's NBD driver gives up a connection that owes it an answer for so long, and sends the
write again on another one. The first copy must not come back over what was written after the
second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vm.daemon_root import write_daemon_root
from tests.vm.guest_daemon import NBD_SOCKET, STATE_MOUNT, VOLUME, GuestDaemon
from tests.vm.guest_disks import GuestDisk
from tests.vm.machine import Machine, Root

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

ROOT = Root(write_daemon_root, memory_mib=768, boot_timeout_s=300)
VOLUME_MIB = 16
SILENT_S = 40  # the driver gives up the connection at 30 s, and the write itself at 60 s
DEVICE = "/dev/nbd0"
GIVEN_UP = "Connection timed out"  # what it logs then


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestDaemon]:
    with Machine(tmp_path_factory.mktemp("machine"), ROOT) as machine:
        machine.run("mount -t tmpfs none /srv")
        disks = [
            GuestDisk(machine, name, number, size)
            for number, (name, size) in enumerate(
                [("first", VOLUME_MIB), ("second", VOLUME_MIB), ("state", 64)]
            )
        ]
        for disk in disks:
            disk.create()
        running = GuestDaemon(machine, *disks)
        machine.run(
            f"mkfs.ext4 -q -F {running.state.path} && mkdir -p {STATE_MOUNT} && "
            f"mount {running.state.path} {STATE_MOUNT}"
        )
        running.prepare()
        machine.run(f"nbd-client -unix {NBD_SOCKET} -N {VOLUME} -C 2 {DEVICE}")
        yield running


def write(text: str, processor: int) -> str:
    """A command that writes the first block, past the page cache, from one of the processors: each
    has a connection of its own.
    """
    return (
        f"yes {text} | dd bs=4096 count=1 iflag=fullblock 2>/dev/null | "
        f"taskset {1 << processor:x} dd of={DEVICE} bs=4096 count=1 oflag=direct 2>&1"
    )


def read(path: str) -> str:
    """A command that prints how the first block begins, from the disk."""
    return f"dd if={path} bs=4096 count=1 iflag=direct 2>/dev/null | head -n 1"


def test_a_write_sent_twice_does_not_come_back_over_a_newer_one(daemon: GuestDaemon) -> None:
    machine = daemon.machine
    machine.run("dmesg -c >/dev/null")
    daemon.state.suspend()
    machine.run(f"({write('old', 0)}; echo $? >/run/old.status) >/run/old.output 2>&1 &")
    machine.run(f"sleep {SILENT_S}")
    daemon.state.resume()
    machine.run("while [ ! -e /run/old.status ]; do sleep 0.1; done")
    log = machine.run("dmesg")
    assert GIVEN_UP in log, "the write was not sent again, so this proves nothing"
    assert machine.run("tail -n 1 /run/old.status; cat /run/old.output").startswith("0"), log
    machine.run(write("new", 1))
    assert machine.run(read(DEVICE)).strip() == "new"
    machine.run(f"nbd-client -d {DEVICE}")
    assert daemon.legs_are_equal()
    assert machine.run(read(daemon.primary.path)).strip() == "new"
