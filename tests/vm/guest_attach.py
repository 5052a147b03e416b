"""The host's side of `duplexd attach` in the guest: on volumes of a daemon on the host, with an
ext4 on the device, under load.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.vm.guest_load import GuestLoad
from tests.vm.machine import HOST_ADDRESS
from tests.vm.tools import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.vm.machine import Machine

WAIT_S = 600.0
POLL_S = 2.0  # each look costs the guest a few programs, which is most of what these tests cost
MOUNT = "/mnt/data"
TIMEOUT_S = 15  # of a request: the shortest that is allowed


class GuestAttach(NamedTuple):
    """One device, watched by one process at a time."""

    machine: Machine
    port: int
    volume: str = "data"
    number: int = 0

    @property
    def path(self) -> str:
        return f"/dev/nbd{self.number}"

    @property
    def uri(self) -> str:
        return f"nbd://{HOST_ADDRESS}:{self.port}/{self.volume}"

    @property
    def _run_file(self) -> str:
        return f"/run/attach{self.number}"

    # ------------------------------------------------------------------------- the process

    def start(self, *options: str) -> None:
        """Start it; returns when the device is attached, and somebody watches it."""
        self.machine.run(
            f"rm -f {self._run_file}.status; touch {self._run_file}.log; "
            f"(setsid duplexd attach {self.uri} {self.path} --timeout {TIMEOUT_S} "
            f"{' '.join(options)} >{self._run_file}.log 2>&1 & echo $! >{self._run_file}.pid; "
            f"wait $!; echo $? >{self._run_file}.status) >/dev/null 2>&1 &"
        )
        self.wait("a device", lambda: bool(self.events("attached") or self.events("taken-over")))

    def signal(self, name: str) -> int:
        """End it by this signal; returns its exit status, as a shell has it."""
        return int(
            self.machine.run(
                f"kill -{name} $(cat {self._run_file}.pid); "
                f"until [ -s {self._run_file}.status ]; do sleep 0.1; done; "
                f"cat {self._run_file}.status"
            )
        )

    def log(self) -> str:
        return self.machine.run(f"cat {self._run_file}.log")

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the process of now has logged under this name."""
        lines = self.log().splitlines()
        said = [json.loads(line) for line in lines if line.startswith("{")]
        return [each for each in said if each["event"] == name]

    def is_attached(self) -> bool:
        shown = self.machine.outcome(f"cat /sys/block/nbd{self.number}/pid")
        return shown.status == 0 and shown.output.strip() != "0"

    def wait(self, what: str, reached: Callable[[], bool]) -> None:
        """Poll until `reached`. Raises MachineError, with what the guest says."""
        deadline = time.monotonic() + WAIT_S
        while not reached():
            if time.monotonic() > deadline or self._has_failed():
                end = self.machine.run(f"cat {self._run_file}.log /run/load.error; dmesg | tail")
                raise MachineError(f"not reached: {what}\n{end}")
            time.sleep(POLL_S)

    def _has_failed(self) -> bool:
        failed = f"[ -s {self._run_file}.status ] && ! grep -qx 0 {self._run_file}.status"
        return self.machine.outcome(failed).status == 0

    def clean_up(self) -> None:
        """Whatever state the guest is in: no load, nothing mounted, nothing attached or watched."""
        self.machine.run(
            f"touch /run/load.stop; kill -KILL $(cat {self._run_file}.pid 2>/dev/null); sleep 0.5; "
            f"nbd-client -d {self.path}; umount -l {MOUNT}; true"
        )

    # ---------------------------------------------------------------------- a file system on it

    def make_file_system(self) -> None:
        """ext4, mounted."""
        self.machine.run(
            f"mkfs.ext4 -q -F {self.path} && mkdir -p {MOUNT} && mount {self.path} {MOUNT}"
        )

    def unmount(self) -> None:
        """Unmount, and check the file system. Raises MachineError if it is not clean."""
        self.machine.run(f"umount {MOUNT} && e2fsck -fn {self.path}")

    @property
    def load(self) -> GuestLoad:
        """On that file system."""
        return GuestLoad(self.machine, MOUNT)
