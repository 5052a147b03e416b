"""A volume as a bare block device of the guest, without a file system: what the kernel's driver
sends for what programs do with it.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.vm.machine import HOST_ADDRESS, Machine

SECTOR_BYTES = 512
PATTERN = "/run/pattern"  # random content, in the guest
PATTERN_BYTES, REPEATED_BYTES = 32 << 20, 1 << 20


class GuestDevice(NamedTuple):
    """/dev/nbdN. Offsets and lengths are in sectors, and nothing goes through the page cache."""

    machine: Machine
    port: int
    number: int = 0

    @property
    def path(self) -> str:
        return f"/dev/nbd{self.number}"

    def connect(self, name: str, connections: int = 1) -> None:
        """Raises MachineError if the server refuses."""
        self.machine.run(
            f"nbd-client -N '{name}' -C {connections} {HOST_ADDRESS} {self.port} {self.path}"
        )

    def disconnect(self) -> None:
        """Whether it is connected or not; returns when the kernel has released it."""
        self.machine.run(
            f"nbd-client -d {self.path}; while [ -e /sys/block/nbd{self.number}/pid ]; do "
            "sleep 0.1; done"
        )

    def make_pattern(self) -> None:
        """Unless it is there: numbers that are random, and the same for each REPEATED_BYTES,
        because they take an emulated machine long.
        """
        times = PATTERN_BYTES // REPEATED_BYTES
        self.machine.run(
            f"[ -s {PATTERN} ] || {{ "
            f"dd if=/dev/urandom of=/run/random bs={REPEATED_BYTES} count=1 2>&1; "
            f"for n in $(seq {times}); do cat /run/random; done >{PATTERN}; }}"
        )

    def write(self, at: int, count: int, sectors: int = 1) -> None:
        """The beginning of the pattern, in `count` writes of so many sectors."""
        self.machine.run(
            f"dd if={PATTERN} of={self.path} bs={sectors * SECTOR_BYTES} count={count} "
            f"seek={at // sectors} oflag=direct conv=notrunc 2>&1"
        )

    def holds(self, at: int, count: int) -> bool:
        """Whether these sectors are the beginning of the pattern."""
        read = f"dd if={self.path} bs={SECTOR_BYTES} skip={at} count={count} iflag=direct"
        compared = f"{read} 2>/dev/null | cmp -n {count * SECTOR_BYTES} - {PATTERN}"
        return self.machine.outcome(compared).status == 0

    def take_long_requests(self) -> None:
        """As long as the driver ever makes them: 32 MiB."""
        self.machine.run(
            f"cd /sys/block/nbd{self.number}/queue && cat max_hw_sectors_kb >max_sectors_kb"
        )

    def start_load(self) -> None:
        """Write one page of the pattern after the other, each waited for, until one fails."""
        self.machine.run(
            "rm -f /run/load.*; (n=0; while "
            f"dd if={PATTERN} of={self.path} bs=4096 skip=$n seek=$n count=1 oflag=direct "
            "conv=notrunc 2>/run/load.error; do n=$((n + 1)); echo $n >/run/load.done; done; "
            "echo $n >/run/load.failed) >/dev/null 2>&1 &"
        )

    def wait_for_load(self, pages: int) -> None:
        """Until it has written so many."""
        self.machine.run(
            f'until [ "$(cat /run/load.done 2>/dev/null || echo 0)" -ge {pages} ]; do sleep 0.1; '
            "done"
        )

    def acknowledged(self) -> int:
        """Pages that were written, once a write has failed."""
        failed = "/run/load.failed"
        return int(
            self.machine.run(f"until [ -s {failed} ]; do sleep 0.1; done; cat {failed}").strip()
        )
