"""The host's side of a daemon in the guest, with one volume."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.vm.tools import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.vm.guest_disks import GuestDisk
    from tests.vm.machine import Machine

VOLUME = "data"
STATE_MOUNT = "/var/lib/duplexd"
CONFIG = "/etc/duplexd.toml"
SOCKET = "/run/duplexd/control.sock"
NBD_SOCKET = "/run/duplexd/nbd.sock"
LOG = "/run/daemon.log"
WAIT_S = 600.0
POLL_S = 0.5  # each look costs the guest about as much

Volume = dict[str, Any]


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
            f"mkdir -p /run/duplexd; rm -f /run/daemon.status {SOCKET}; "
            f"(setsid duplexd run --config {CONFIG} >>{LOG} 2>&1 & "
            "echo $! >/run/daemon.pid; wait $!; echo $? >/run/daemon.status) >/dev/null 2>&1 &"
        )
        # to look costs a program that starts, and would make the daemon slower
        self.machine.run(
            f"until [ -S {SOCKET} ]; do [ ! -s /run/daemon.status ] || {{ tail {LOG}; exit 1; }}; "
            "sleep 0.5; done",
            WAIT_S,
        )
        self.wait("a ready daemon", self.ready)

    def stop(self) -> str:
        """End it; returns its exit status."""
        return self.machine.run(
            "kill $(cat /run/daemon.pid); while [ ! -s /run/daemon.status ]; do sleep 0.1; done; "
            "cat /run/daemon.status"
        ).strip()

    def restart(self) -> None:
        """End it, whatever it is at, and start it on good disks. The file system of its state was
        read-only if its disk had failed, so it is mounted again.
        """
        self.stop()
        self.machine.run(f"umount {STATE_MOUNT} && mount {self.state.path} {STATE_MOUNT}")
        self.start()

    def prepare(self, **options: object) -> None:
        """Whatever state it is in: good disks, these options, and a pair that is DUPLEX."""
        for disk in (self.primary, self.secondary, self.state):
            disk.make_good()
        before = self.machine.outcome(f"cat {CONFIG}").output
        self.configure(**options)
        if self.machine.outcome("test -e /run/daemon.pid").status:
            self.start()
        elif not self.ready() or self.machine.run(f"cat {CONFIG}") != before:
            self.restart()
        self.wait("an end of copies", lambda: self.state_and_reason()[0] != "PENDING")
        if self.state_and_reason()[0] != "DUPLEX":
            self.resync()

    # ------------------------------------------------------------------------- what it says

    def _curl(self, path: str) -> str:
        return f"curl -sS --fail-with-body --unix-socket {SOCKET} http://localhost{path}"

    def ready(self) -> bool:
        """Whether /readyz says so, and all volumes are served."""
        answer = self.machine.outcome(self._curl("/readyz"))
        return answer.status == 0 and self.volume()["served"]

    def _post(self, path: str) -> dict[str, Any]:
        """A command for the volume; its answer."""
        body = json.dumps({"targets": [VOLUME]})
        return dict(json.loads(self.machine.run(f"{self._curl(path)} --json '{body}'")))

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
        self._post("/v1/resync")

    def resync(self) -> None:
        """Until the pair is DUPLEX."""
        self.begin_resync()
        self.wait("a resync", lambda: self.state_and_reason()[0] != "PENDING")
        if self.state_and_reason()[0] != "DUPLEX":
            raise MachineError(f"the resync failed: {self.events('suspended')[-1]}")

    def suspend(self) -> None:
        self._post("/v1/suspend")

    def legs_are_equal(self) -> bool:
        """Whether the daemon says so, and what is on the disks too, whatever is in memory."""
        said = bool(self._post("/v1/verify")["equal"])
        compared = self.machine.outcome(f"sync; cmp {self.primary.file} {self.secondary.file}")
        return said and compared.status == 0

    def duplexctl(self, command: str) -> dict[str, Any]:
        """What it says. Starting it takes the guest seconds."""
        said = self.machine.run(f"duplexctl --socket {SOCKET} --json {command}")
        return dict(json.loads(said))
