"""The host's side of a daemon in the guest with one volume, /dev/nbd0, and an ext4 on it under
load.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.vm.guest_volumes import TROUBLE
from tests.vm.tools import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.vm.guest_disks import GuestDisk
    from tests.vm.machine import Machine

VOLUME = "data"
DEVICE = "nbd0"
MOUNT = "/mnt/data"
STATE_MOUNT = "/var/lib/duplexd"
CONFIG = "/etc/duplexd.toml"
SOCKET = "/run/duplexd/control.sock"
NBD_SOCKET = "/run/duplexd/nbd.sock"
LOG = "/run/daemon.log"
WAIT_S = 120.0
POLL_S = 0.2

Volume = dict[str, Any]


class Place(NamedTuple):
    """Some sectors of a volume."""

    start_sector: int
    sectors: int


class GuestDaemon(NamedTuple):
    """`duplexd run` with both images of the volume on disks of their own, and its state on a third,
    which has a file system.
    """

    machine: Machine
    primary: GuestDisk
    secondary: GuestDisk
    state: GuestDisk

    # ------------------------------------------------------------------------- the process

    def configure(self, **options: object) -> None:
        """Write the configuration, with options of the controller."""
        lines = [
            "[controller]",
            'name = "guest"',
            f'state_dir = "{STATE_MOUNT}/guest"',
            'journal_size = "16MiB"',
            *(f"{name} = {json.dumps(value)}" for name, value in options.items()),
            "[nbd]",
            f'listen = ["unix:{NBD_SOCKET}"]',
            "[control]",
            f'socket = "{SOCKET}"',
            f"[volumes.{VOLUME}]",
            f'size = "{self.primary.size_mib}MiB"',
            f'primary = "{self.primary.path}"',
            f'secondary = "{self.secondary.path}"',
        ]
        words = " ".join(f"'{line}'" for line in lines)
        self.machine.run(f"printf '%s\\n' {words} >{CONFIG}")

    def start(self) -> None:
        """Start it; returns when it is ready."""
        self.machine.run(
            f"mkdir -p /run/duplexd; rm -f /run/daemon.status; (setsid duplexd run --config "
            f"{CONFIG} >>{LOG} 2>&1 & echo $! >/run/daemon.pid; wait $!; echo $? "
            ">/run/daemon.status) >/dev/null 2>&1 &"
        )
        self.wait("a ready daemon", self.ready)

    def stop(self) -> str:
        """End it; returns its exit status."""
        return self.machine.run(
            "kill $(cat /run/daemon.pid); while [ ! -e /run/daemon.status ]; do sleep 0.1; done; "
            "cat /run/daemon.status"
        ).strip()

    def restart(self) -> None:
        """End it, whatever it is at, and start it on good disks. The file system of its state was
        read-only if its disk had failed, so it is mounted again.
        """
        self.stop()
        self.machine.run(f"umount {STATE_MOUNT} && mount {self.state.path} {STATE_MOUNT}")
        self.start()

    # ------------------------------------------------------------------------- what it says

    def _curl(self, path: str) -> str:
        return f"curl -sS --fail-with-body --unix-socket {SOCKET} http://localhost{path}"

    def ready(self) -> bool:
        """Whether /readyz says so, and all volumes are served."""
        answer = self.machine.outcome(self._curl("/readyz"))
        return answer.status == 0 and self.volume()["served"]

    def volume(self) -> Volume:
        """The status of the volume."""
        status = json.loads(self.machine.run(self._curl("/v1/status")))
        return dict(status["volumes"][0])

    def state_and_reason(self) -> tuple[str, str]:
        volume = self.volume()
        return volume["state"], volume["reason"]

    def disk_of_primary(self) -> GuestDisk:
        """That which is the primary at this moment."""
        return self.secondary if self.volume()["swapped"] else self.primary

    def disk_of_secondary(self) -> GuestDisk:
        return self.primary if self.volume()["swapped"] else self.secondary

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of its log with that event."""
        found = self.machine.run(f'grep -F \'"event": "{name}"\' {LOG} || true').splitlines()
        return [json.loads(line) for line in found]

    def wait(self, what: str, reached: Callable[[], bool]) -> None:
        """Poll until `reached`. Raises MachineError, with what the daemon logged last."""
        deadline = time.monotonic() + WAIT_S
        while not reached():
            if time.monotonic() > deadline:
                end = self.machine.run(f"cat /run/load.error; tail -n 15 {LOG}; dmesg | tail")
                raise MachineError(f"not reached: {what}\n{end}")
            time.sleep(POLL_S)

    def begin_resync(self) -> None:
        """If the pair is suspended."""
        body = f'\'{{"targets":["{VOLUME}"]}}\''
        self.machine.run(f"{self._curl('/v1/resync')} --json {body}")

    def resync(self) -> None:
        """Until the pair is DUPLEX."""
        self.begin_resync()
        self.wait("a resync", lambda: self.state_and_reason()[0] != "PENDING")
        if self.state_and_reason()[0] != "DUPLEX":
            raise MachineError(f"the resync failed: {self.events('suspended')[-1]}")

    def verify(self) -> dict[str, Any]:
        """What duplexctl says of the two images."""
        said = self.machine.run(f"duplexctl --socket {SOCKET} --json verify {VOLUME}")
        return dict(json.loads(said))

    # ------------------------------------------------------------------------- its client

    def connect(self) -> None:
        """By the kernel's driver."""
        self.machine.run(
            f"dmesg -c >/dev/null; nbd-client -unix {NBD_SOCKET} -N {VOLUME} /dev/{DEVICE}"
        )

    def make_file_system(self, block_bytes: int) -> None:
        """With small blocks a write may need a part of a page that has to be read before."""
        self.machine.run(f"mkfs.ext4 -q -F -b {block_bytes} /dev/{DEVICE}")

    def mount(self) -> None:
        self.machine.run(f"mkdir -p {MOUNT} && mount /dev/{DEVICE} {MOUNT}")

    def unmount(self) -> None:
        """Unmount, check the file system, and disconnect."""
        self.machine.run(f"umount {MOUNT} && e2fsck -fn /dev/{DEVICE}")
        self.machine.run(self._disconnect())

    def disconnect_dead(self) -> None:
        """Take the volume away under a file system that has failed."""
        self.machine.run(f"umount -l {MOUNT}; {self._disconnect()}")

    def _disconnect(self) -> str:
        return (
            f"nbd-client -d /dev/{DEVICE}; while [ -e /sys/block/{DEVICE}/pid ]; do sleep 0.1; done"
        )

    def start_load(self) -> None:
        """See guest_daemon/load; returns when it has written a few files."""
        self.machine.run(
            "rm -f /run/load.*; touch /run/load.written; "
            f"(setsid load {MOUNT} >/run/load.error 2>&1; echo $? >/run/load.status) "
            ">/dev/null 2>&1 &"
        )
        self.wait_for_files(5)

    def files(self) -> int:
        """How many it has written."""
        return int(self.machine.run("grep -c fsynced /run/load.written || true"))

    def wait_for_files(self, more: int) -> None:
        """Until the load has written that many more."""
        wanted = self.files() + more
        self.wait(f"{more} more files", lambda: self.load_ended() or self.files() >= wanted)
        if self.load_ended():
            raise MachineError(f"the load failed: {self.load_error()}")

    def load_ended(self) -> bool:
        return self.machine.outcome("test -e /run/load.status").status == 0

    def load_error(self) -> str:
        """What the load complains about, an empty string if all went well."""
        return self.machine.run("cat /run/load.error").strip()

    def stop_load(self) -> str:
        """Let it read all that it wrote, and end; returns what it complains about."""
        self.machine.run("touch /run/load.stop")
        self.wait("the end of the load", self.load_ended)
        return self.load_error()

    def check_load(self) -> None:
        """Read what an earlier load had synced. Raises MachineError if any of it is not there."""
        self.machine.run(f"load --check {MOUNT}")

    def write_file(self, name: str, size_mib: int) -> Place:
        """Write a file, over its older content if it is there, and let Linux write all of its
        pages to its disks; returns where it begins.
        """
        self.machine.run(
            f"dd if=/dev/urandom of=/run/{name} bs=1M count={size_mib} 2>&1 && "
            f"dd if=/run/{name} of={MOUNT}/{name} bs=1M conv=notrunc,fsync 2>&1 && sync"
        )
        block = int(self.machine.run(f"debugfs -R 'bmap /{name} 0' /dev/{DEVICE} 2>/dev/null"))
        sectors = int(self.machine.run(f"stat -f -c %S {MOUNT}")) // 512
        return Place(block * sectors, 64)

    def lose_file(self, name: str, disk: GuestDisk) -> None:
        """Write it anew, all but the last step: the disk fails when Linux writes its pages, and is
        good again when they have been forgotten.
        """
        size = self.machine.run(f"stat -c %s /run/{name}").strip()
        self.machine.run(f"head -c {size} /dev/urandom >/run/{name}")
        disk.fail()
        self.machine.run(
            f"dd if=/run/{name} of={MOUNT}/{name} bs=1M conv=notrunc,fsync 2>&1; sync; "
            "echo 1 >/proc/sys/vm/drop_caches"
        )
        disk.make_good()

    def read_end(self) -> None:
        """Read the end of the volume from the device. Raises MachineError.

        Past the page cache, Linux would report errors of writes there.
        """
        self.machine.run(
            f"echo 1 >/proc/sys/vm/drop_caches; sectors=$(cat /sys/block/{DEVICE}/size); "
            f"dd if=/dev/{DEVICE} of=/dev/null bs=4096 skip=$((sectors / 8 - 16)) count=16 2>&1"
        )

    def check_file(self, name: str) -> None:
        """Read it from the device. Raises MachineError if it is not as written."""
        self.machine.run(f"echo 3 >/proc/sys/vm/drop_caches; cmp /run/{name} {MOUNT}/{name}")

    def trouble(self) -> list[str]:
        """What the kernel says against the volume since `mount`: in its log, and what the file
        system has counted.
        """
        lines = self.machine.run("dmesg").splitlines()
        said = [line for line in lines if DEVICE in line and TROUBLE.search(line)]
        counted = self.machine.run(f"cat /sys/fs/ext4/{DEVICE}/errors_count").strip()
        return said + ([f"errors_count {counted}"] if counted != "0" else [])

    def clean_up(self) -> None:
        """Whatever state the guest is in: no load, nothing mounted, nothing connected, good
        disks.
        """
        for disk in (self.primary, self.secondary, self.state):
            disk.make_good()
        self.machine.run(
            "touch /run/load.stop; sleep 0.5; "
            f"! grep -q {MOUNT} /proc/mounts || umount -l {MOUNT}; {self._disconnect()}; true"
        )

    def prepare(self, **options: object) -> None:
        """After `clean_up`: a daemon with these options, with a pair that is DUPLEX."""
        before = self.machine.outcome(f"cat {CONFIG}").output
        self.configure(**options)
        if self.machine.outcome("test -e /run/daemon.pid").status:
            self.start()
        elif not self.ready() or self.machine.run(f"cat {CONFIG}") != before:
            self.restart()
        self.wait("an end of copies", lambda: self.state_and_reason()[0] != "PENDING")
        if self.state_and_reason()[0] != "DUPLEX":
            self.resync()
