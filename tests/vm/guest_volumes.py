"""The host's side of what the guest does with its volumes: connect, make file systems, write,
disconnect.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple

from tests.vm.checker import Progress
from tests.vm.machine import HOST_ADDRESS
from tests.vm.tools import MachineError

if TYPE_CHECKING:
    from tests.vm.machine import Machine

PROGRESS_TIMEOUT_S = 600.0
POLL_INTERVAL_S = 0.3

# What Linux logs when a block device or the file system on it is in trouble.
TROUBLE = re.compile(
    r"error|fail|abort|read-only|timed out|stuck|blocked for|dead connection|lost|corrupt",
    re.IGNORECASE,
)


class GuestVolumes(NamedTuple):
    """Volumes of a daemon on the host, used by the guest as users do: nbd-client by name over TCP,
    ext4, mounted on /mnt/NAME.
    """

    machine: Machine
    port: int
    names: list[str]
    connections: int = 1

    def connect(self) -> None:
        """Connect each volume as /dev/nbdN."""
        self.machine.run("dmesg -c >/dev/null")
        for device, name in enumerate(self.names):
            self.machine.run(
                f"nbd-client -N {name} -C {self.connections} {HOST_ADDRESS} {self.port} "
                f"/dev/nbd{device}"
            )

    def make_file_systems(self) -> None:
        """mkfs.ext4 on all of them at a time, then mount."""
        devices = [f"/dev/nbd{device}" for device in range(len(self.names))]
        self.machine.run(" & ".join(f"mkfs.ext4 -q -F {device}" for device in devices) + " & wait")
        for device, name in zip(devices, self.names, strict=True):
            self.machine.run(f"mkdir -p /mnt/{name} && mount {device} /mnt/{name}")

    def start_writer(self) -> None:
        """Write numbered files, see guest/writer."""
        self.machine.run("rm -f /run/writer.*")
        self.machine.run(
            f"(setsid writer {' '.join(self.names)} >/dev/null 2>&1; echo $? >/run/writer.status) "
            ">/dev/null 2>&1 &"
        )

    def progress(self) -> Progress:
        """How far the writer is at this moment."""
        log = self.machine.run(f"tail -n {2 * len(self.names)} /run/writer.log 2>/dev/null || true")
        return Progress.of_log(log, self.names)

    def wait_for_files(self, more: int) -> Progress:
        """Wait until `more` files were fsynced on every volume, counted from now.

        Raises MachineError if the writer makes no progress.
        """
        start, deadline = self.progress(), time.monotonic() + PROGRESS_TIMEOUT_S
        while time.monotonic() < deadline:
            now = self.progress()
            if all(now.fsynced[name] >= start.fsynced[name] + more for name in self.names):
                return now
            time.sleep(POLL_INTERVAL_S)
        raise MachineError(
            "the guest's writer makes no progress at "
            f"{self.progress()}:\n{self.machine.run('cat /run/writer.*; dmesg | tail')}"
        )

    def stop_writer(self) -> Progress:
        """Let the writer end after the files it is at; returns what it has written.

        Raises MachineError if it had failed.
        """
        self.machine.run(
            "touch /run/writer.stop; while [ ! -s /run/writer.status ]; do sleep 0.1; done"
        )
        status = self.machine.run("cat /run/writer.status").strip()
        if status != "0":
            raise MachineError(
                "the guest's writer "
                f"failed:\n{self.machine.run('cat /run/writer.error; dmesg | tail')}"
            )
        return self.progress()

    def trim(self) -> None:
        """Tell the volumes which blocks their file systems do not use."""
        for name in self.names:
            self.machine.run(f"fstrim /mnt/{name}")

    def write_bulk(self, size_mib: int) -> None:
        """Write (again) one large file on the first volume and fsync it."""
        self.machine.run(
            f"dd if=/dev/urandom of=/mnt/{self.names[0]}/bulk bs=1M count={size_mib} conv=fsync "
            "2>&1"
        )

    def read_directly(self, device: int) -> None:
        """Read the end of a volume past the guest's page cache.

        Nothing of the file system is there: where it has changes of its own in the page cache,
        Linux writes them before it reads.
        """
        self.machine.run(
            f"sectors=$(cat /sys/block/nbd{device}/size); "
            f"dd if=/dev/nbd{device} of=/dev/null bs=4096 skip=$((sectors / 8 - 16)) count=16 "
            "iflag=direct 2>&1"
        )

    def trouble(self) -> list[str]:
        """What the guest's kernel complained about since `connect`."""
        return [line for line in self.machine.run("dmesg").splitlines() if TROUBLE.search(line)]

    def unmount(self) -> None:
        """Unmount all volumes."""
        for name in self.names:
            self.machine.run(f"umount /mnt/{name}")

    def check_file_systems(self) -> None:
        """Of all volumes, once they are unmounted. Raises MachineError if one is not clean."""
        for device in range(len(self.names)):
            self.machine.run(f"e2fsck -fn /dev/nbd{device}")

    def disconnect(self) -> None:
        """Disconnect all devices; returns when the kernel has released them."""
        for device in range(len(self.names)):
            self.machine.run(
                f"nbd-client -d /dev/nbd{device}; while [ -e /sys/block/nbd{device}/pid ]; do "
                "sleep 0.1; done"
            )

    def clean_up_command(self) -> str:
        """Whatever state the guest is in: no writer, nothing connected, nothing mounted."""
        stop = ["touch /run/writer.stop", "sleep 0.5"]
        mounts = [f"umount -l /mnt/{name}" for name in self.names]
        devices = [f"nbd-client -d /dev/nbd{device}" for device in range(len(self.names))]
        return "; ".join([*stop, *devices, *mounts, "true"])
