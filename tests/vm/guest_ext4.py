"""The host's side of an ext4 in the guest: on the volume of a daemon there, by the kernel's NBD
driver, under load.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from tests.vm.guest_daemon import NBD_SOCKET, VOLUME
from tests.vm.guest_volumes import TROUBLE
from tests.vm.tools import MachineError

if TYPE_CHECKING:
    from tests.vm.guest_daemon import GuestDaemon
    from tests.vm.guest_disks import GuestDisk

DEVICE = "nbd0"
MOUNT = "/mnt/data"
SECTOR_BYTES = 512

# "0:  0.. 2047:  16384..  18431:  2048:  last,eof": logical, then physical
_FIRST_EXTENT = re.compile(r"^ *0: +0\.\. *\d+: +(\d+)\.\.", re.MULTILINE)


class Place(NamedTuple):
    """Some sectors of a volume."""

    start_sector: int
    sectors: int


class GuestExt4(NamedTuple):
    """Mounted on `MOUNT`."""

    daemon: GuestDaemon

    def _run(self, command: str) -> str:
        return self.daemon.machine.run(command)

    def connect(self) -> None:
        """By the kernel's driver."""
        self._run(f"dmesg -c >/dev/null; nbd-client -unix {NBD_SOCKET} -N {VOLUME} /dev/{DEVICE}")

    def make_file_system(self, block_bytes: int) -> None:
        """With small blocks a write may need a part of a page that has to be read before."""
        self._run(f"mkfs.ext4 -q -F -b {block_bytes} /dev/{DEVICE}")

    def mount(self) -> None:
        self._run(f"mkdir -p {MOUNT} && mount /dev/{DEVICE} {MOUNT}")

    def unmount(self) -> None:
        """Unmount, check the file system, and disconnect."""
        self._run(f"umount {MOUNT} && e2fsck -fn /dev/{DEVICE}")
        self._run(self._disconnect())

    def disconnect_dead(self) -> None:
        """Take the volume away under a file system that has failed."""
        self._run(f"umount -l {MOUNT}; {self._disconnect()}")

    def _disconnect(self) -> str:
        return (
            f"nbd-client -d /dev/{DEVICE}; while [ -e /sys/block/{DEVICE}/pid ]; do sleep 0.1; done"
        )

    def start_load(self) -> None:
        """See guest_daemon/load; returns when it has written a few files."""
        self._run(
            "rm -f /run/load.*; touch /run/load.written; "
            f"(setsid load {MOUNT} >/run/load.error 2>&1; echo $? >/run/load.status) "
            ">/dev/null 2>&1 &"
        )
        self.wait_for_files(3)

    def files(self) -> int:
        """How many it has written."""
        return int(self._run("grep -c fsynced /run/load.written || true"))

    def wait_for_files(self, more: int) -> None:
        """Until the load has written that many more."""
        wanted = self.files() + more
        self.daemon.wait(f"{more} more files", lambda: self.load_ended() or self.files() >= wanted)
        if self.load_ended():
            raise MachineError(f"the load failed: {self.load_error()}")

    def load_ended(self) -> bool:
        return self.daemon.machine.outcome("test -e /run/load.status").status == 0

    def load_error(self) -> str:
        """What the load complains about, an empty string if all went well."""
        return self._run("cat /run/load.error").strip()

    def stop_load(self) -> str:
        """Let it read all that it wrote, and end; returns what it complains about."""
        self._run("touch /run/load.stop")
        self.daemon.wait("the end of the load", self.load_ended)
        return self.load_error()

    def check_load(self) -> None:
        """Read what an earlier load had synced. Raises MachineError if any of it is not there."""
        self._run(f"load --check {MOUNT}")

    def write_file(self, name: str, size_mib: int) -> Place:
        """Write a file, over its older content if it is there, and let Linux write all of its
        pages to its disks; returns where it begins.
        """
        self._run(
            f"dd if=/dev/urandom of=/run/{name} bs=1M count={size_mib} 2>&1 && "
            f"dd if=/run/{name} of={MOUNT}/{name} bs=1M conv=notrunc,fsync 2>&1 && sync"
        )
        extents = self._run(f"filefrag -v -b{SECTOR_BYTES} {MOUNT}/{name}")
        first = _FIRST_EXTENT.search(extents)
        if first is None:
            raise MachineError(f"{name} has no place\n{extents}")
        return Place(int(first[1]), 64)

    def lose_file(self, name: str, disk: GuestDisk) -> None:
        """Write it anew, all but the last step: the disk fails when Linux writes its pages, and is
        good again when they have been forgotten.
        """
        size = self._run(f"stat -c %s /run/{name}").strip()
        self._run(f"head -c {size} /dev/urandom >/run/{name}")
        disk.fail()
        self._run(
            f"dd if=/run/{name} of={MOUNT}/{name} bs=1M conv=notrunc,fsync 2>&1; sync; "
            "echo 1 >/proc/sys/vm/drop_caches"
        )
        disk.make_good()

    def read_end(self) -> None:
        """Read the end of the volume from the device. Raises MachineError.

        Past the page cache, Linux would report errors of writes there.
        """
        self._run(
            f"echo 1 >/proc/sys/vm/drop_caches; sectors=$(cat /sys/block/{DEVICE}/size); "
            f"dd if=/dev/{DEVICE} of=/dev/null bs=4096 skip=$((sectors / 8 - 16)) count=16 2>&1"
        )

    def check_file(self, name: str) -> None:
        """Read it from the device. Raises MachineError if it is not as written."""
        self._run(f"echo 3 >/proc/sys/vm/drop_caches; cmp /run/{name} {MOUNT}/{name}")

    def trouble(self) -> list[str]:
        """What the kernel says against the volume since `mount`: in its log, and what the file
        system has counted.
        """
        lines = self._run("dmesg").splitlines()
        said = [line for line in lines if DEVICE in line and TROUBLE.search(line)]
        counted = self._run(f"cat /sys/fs/ext4/{DEVICE}/errors_count").strip()
        return said + ([f"errors_count {counted}"] if counted != "0" else [])

    def clean_up(self) -> None:
        """Whatever state the guest is in: no load, nothing mounted, nothing connected."""
        self._run(
            "touch /run/load.stop; sleep 0.5; "
            f"! grep -q {MOUNT} /proc/mounts || umount -l {MOUNT}; {self._disconnect()}; true"
        )
