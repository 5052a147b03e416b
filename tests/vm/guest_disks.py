"""The host's side of disks in the guest that fail on command: a table of the device mapper over a
loop device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.vm.machine import Machine

DIRECTORY = "/srv/disks"  # of files that have the disks' content, in memory
SECTORS_PER_MIB = 2048
LOGS_FROM = 4  # number of the first loop device that is a log
LOG_MIB = 512  # of which only what is used takes memory
_NO_UDEV = "export DM_DISABLE_UDEV=1"  # dmsetup makes the nodes itself


class GuestDisk(NamedTuple):
    """/dev/mapper/NAME. A new table holds from the next request on, for open devices too."""

    machine: Machine
    name: str
    number: int  # of the loop device
    size_mib: int

    @property
    def path(self) -> str:
        return f"/dev/mapper/{self.name}"

    @property
    def file(self) -> str:
        """What has its content."""
        return f"{DIRECTORY}/{self.name}"

    @property
    def sectors(self) -> int:
        return self.size_mib * SECTORS_PER_MIB

    def create(self) -> None:
        """A good disk, full of zeroes."""
        self.machine.run(
            f"mkdir -p {DIRECTORY} && truncate -s {self.size_mib}M {self.file} && "
            f"losetup /dev/loop{self.number} {self.file} && "
            f"{_NO_UDEV} && dmsetup create {self.name} --table '{self._good(0, self.sectors)}'"
        )

    def make_good(self) -> None:
        """It reads and writes."""
        self._load(self._good(0, self.sectors))

    def fail(self) -> None:
        """Every request fails."""
        self._load(f"0 {self.sectors} error")

    def fail_range(self, start_sector: int, sectors: int) -> None:
        """Requests for some sectors fail, even those to write them."""
        end = start_sector + sectors
        self._load(
            f"{self._good(0, start_sector)}\\n{start_sector} {sectors} error\\n"
            f"{self._good(end, self.sectors - end)}"
        )

    def flake(self, up_s: int, down_s: int) -> None:
        """Every request fails for `down_s`, after each `up_s` seconds."""
        target = f"flakey /dev/loop{self.number} 0 {up_s} {down_s}"
        self._load(f"0 {self.sectors} {target}")

    def suspend(self) -> None:
        """Every request waits."""
        self.machine.run(f"{_NO_UDEV}; dmsetup suspend --noflush --nolockfs {self.name}")

    def resume(self) -> None:
        """What waited goes on."""
        self.machine.run(f"{_NO_UDEV}; dmsetup resume {self.name}")

    def log_writes(self) -> None:
        """From now on whatever becomes durable is logged; see log_writes.py."""
        loop = f"/dev/loop{self.number + LOGS_FROM}"
        self.machine.run(f"truncate -s {LOG_MIB}M {self.log} && losetup {loop} {self.log}")
        self._load(f"0 {self.sectors} log-writes /dev/loop{self.number} {loop}")

    @property
    def log(self) -> str:
        """What has been logged; complete when the disk is good again."""
        return f"{self.file}.log"

    def remove(self) -> None:
        """Its files, too, and the device: for another one in its place."""
        self.machine.run(
            f"{_NO_UDEV}; dmsetup remove {self.name} && losetup -d /dev/loop{self.number} && "
            f"rm -f {self.file}; losetup -d /dev/loop{self.number + LOGS_FROM}; rm -f {self.log}"
        )

    def _good(self, start: int, sectors: int) -> str:
        return f"{start} {sectors} linear /dev/loop{self.number} {start}"

    def _load(self, table: str) -> None:
        """At once, whatever has not been written yet: a bad table would not let it be written."""
        self.machine.run(
            f"{_NO_UDEV}; printf '{table}\\n' | dmsetup reload {self.name} && "
            f"dmsetup resume --noflush --nolockfs {self.name}"
        )


def forget_pages(machine: Machine) -> None:
    """Let the guest read from its disks what it has in memory and has written already."""
    machine.run("echo 1 >/proc/sys/vm/drop_caches")
