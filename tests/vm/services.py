"""The host's side of a guest whose first process is systemd: units, their journals, the control
sockets of what they run.
"""

from __future__ import annotations

import json
import shlex
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.daemon import ROOT
from tests.vm.systemd_root import SOURCE
from tests.vm.tools import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.vm.machine import Machine

COMMAND_TIMEOUT_S = 300.0  # more than what the unit has for its start
POLL_INTERVAL_S = 1.0  # each look costs the guest about half of that
EXAMPLE = f"{SOURCE}/configs/example-database.toml"
VOLUME_MIB = 16  # the images, the journal, and a backup are in the guest's memory
UNPACKED_ALREADY = "python3 -m venv"  # the one line of the page that needs a network


def commands_of(page: str, heading: str) -> list[str]:
    """The commands (indented lines) under a heading of one of our documents."""
    section = (
        (ROOT / "docs" / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    )
    lines = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    if not lines:
        raise MachineError(f"docs/{page} has no commands under {heading!r}")
    return [line for line in lines if not line.startswith(UNPACKED_ALREADY)]


class Services(NamedTuple):
    """Everything is done as root, as an administrator would."""

    machine: Machine

    def run(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """A shell command line in the unpacked sources. Raises MachineError if it fails."""
        return self.machine.run(f"cd /{SOURCE} && {command}", timeout_s)

    def install(self) -> None:
        """duplexd@db, installed and started by the commands of docs/operations.md. Its
        configuration is configs/example-database.toml with smaller volumes.
        """
        self.run(f'sed -i -E \'s/"[0-9]+[GT]iB"/"{VOLUME_MIB}MiB"/\' /{EXAMPLE}')
        for command in commands_of("operations.md", "Under systemd"):
            self.run(command)

    def write(self, path: str, text: str) -> None:
        """Make a file."""
        self.machine.run(
            f"printf '%b' {shlex.quote(text.encode('unicode_escape').decode())} >{path}"
        )

    def start(self, unit: str) -> None:
        """`systemctl start`: returns when the unit is up."""
        done = self.machine.outcome(f"systemctl start {unit}", COMMAND_TIMEOUT_S)
        if done.status:
            status = self.machine.run(f"systemctl status --no-pager -l -n 40 {unit} || true")
            raise MachineError(f"{unit} does not start\n{done.output}\n{status}")

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """What `systemctl show` says."""
        lines = self.machine.run(f"systemctl show -p {','.join(names)} {unit}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def journal(self, unit: str, event: str) -> list[dict[str, Any]]:
        """What the unit logged of that kind, the oldest first; systemd's own lines are no JSON."""
        lines = self.machine.run(f"journalctl -q -o cat -u {unit}").splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if entry.get("event") == event]

    def get(self, controller: str, path: str) -> Any:
        """The answer of a controller's control socket."""
        return json.loads(
            self.machine.run(f"curl -sS --fail-with-body {curl_target(controller, path)}")
        )

    def volumes(self, controller: str) -> dict[str, dict[str, Any]]:
        """The status of each volume."""
        return {volume["name"]: volume for volume in self.get(controller, "/v1/status")["volumes"]}

    def wait(
        self, what: str, reached: Callable[[], bool], timeout_s: float = COMMAND_TIMEOUT_S
    ) -> None:
        """Poll until `reached`. Raises MachineError, with what failed and the journal's end."""
        deadline = time.monotonic() + timeout_s
        while not reached():
            if time.monotonic() > deadline:
                end = self.machine.run(
                    "journalctl -q --no-pager -n 40; systemctl --failed --no-pager"
                )
                raise MachineError(f"not reached: {what}\n{end}")
            time.sleep(POLL_INTERVAL_S)

    def post(self, controller: str, path: str, body: dict[str, Any]) -> Any:
        """A command to a controller's control socket."""
        return json.loads(
            self.machine.run(
                f"curl -sS --fail-with-body {curl_target(controller, path)} --json "
                f"{shlex.quote(json.dumps(body))}"
            )
        )

    def wait_active(self, unit: str, restarts: int) -> None:
        """Until the unit is up again after having been restarted that often."""
        self.wait_properties(unit, {"ActiveState": "active", "NRestarts": str(restarts)})

    def wait_properties(self, unit: str, wanted: dict[str, str]) -> None:
        """Until `systemctl show` says all of that."""
        self.wait(f"{unit} with {wanted}", lambda: self.properties(unit, *wanted) == wanted)


def curl_target(controller: str, path: str) -> str:
    """Arguments of curl."""
    return f"--unix-socket /run/duplexd/{controller}/control.sock http://localhost{path}"


def uri(controller: str, volume: str) -> str:
    """A volume as libnbd takes it, quoted for the shell."""
    return shlex.quote(f"nbd+unix:///{volume}?socket=/run/duplexd/{controller}/nbd.sock")
