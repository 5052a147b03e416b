"""The host's side of guest_daemon/load: a program in the guest that fsyncs files on a file system,
and reads them back. A file that was fsynced and is not there any more ends it with an error.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from tests.vm.guest_volumes import TROUBLE
from tests.vm.tools import MachineError

if TYPE_CHECKING:
    from tests.vm.machine import Machine

WAIT_S = 600.0
POLL_S = 2.0  # each look costs the guest a few programs
# What the driver says of connections that end, and of those it gets in their place
OF_CONNECTIONS = (
    "Receive control failed", "Send control failed", "Send data failed", "Connection timed out",
    "reconnected socket", "Dead connection", "Other side returned", "shutting down sockets",
    "Request send failed, requeueing",
)  # fmt: skip


class GuestLoad(NamedTuple):
    """One at a time, on what is mounted at `mount`."""

    machine: Machine
    mount: str

    def start(self) -> None:
        """Returns when it has written a few files. What the kernel said before is forgotten."""
        self.machine.run(
            "dmesg -c >/dev/null; rm -f /run/load.*; touch /run/load.written; "
            f"(setsid load {self.mount} >/run/load.error 2>&1; echo $? >/run/load.status) "
            ">/dev/null 2>&1 &"
        )
        self.wait_for_files(3)

    def files(self) -> int:
        """How many it has fsynced."""
        return int(self.machine.run("grep -c fsynced /run/load.written || true"))

    def wait_for_files(self, more: int) -> None:
        """Until it has fsynced that many more. Raises MachineError if it has ended."""
        wanted, deadline = self.files() + more, time.monotonic() + WAIT_S
        while not self._has_ended():
            if self.files() >= wanted:
                return
            if time.monotonic() > deadline:
                raise MachineError(f"the load does not go on:\n{self.machine.run('dmesg | tail')}")
            time.sleep(POLL_S)
        raise MachineError(f"the load failed: {self.machine.run('cat /run/load.error')}")

    def stop(self) -> None:
        """Let it read all that it has fsynced, past the page cache, and end. Raises MachineError
        if it ever met an error, or content that is not what it wrote.
        """
        self.machine.run("touch /run/load.stop; until [ -s /run/load.status ]; do sleep 0.2; done")
        said = self.machine.run("cat /run/load.error /run/load.status").strip()
        if said != "0":
            raise MachineError(f"the load failed: {said}")

    def trouble(self) -> list[str]:
        """What the kernel has complained about since the start, less what it says of connections
        that are replaced.
        """
        return [
            line
            for line in self.machine.run("dmesg").splitlines()
            if TROUBLE.search(line) and not any(each in line for each in OF_CONNECTIONS)
        ]

    def _has_ended(self) -> bool:
        return self.machine.outcome("test -s /run/load.status").status == 0
