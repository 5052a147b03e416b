"""A Debian root that is booted: its own systemd is the first process of a container.

systemd-nspawn makes the container and no network in it. The units run in it with their sandboxes,
on the kernel of this machine; tests/vm boots a kernel of its own.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support.daemon import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.packaging.debian_root import Root

LIFETIME_S = 3000  # also if the tests are killed
PACKAGES = "systemd-sysv dbus qemu-utils libnbd-bin"  # what boots, copies and reads volumes
CONTAINER = ("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network")


class Booted:
    """Use it as a context manager; commands are run as root, as an administrator would."""

    def __init__(self, root: Root) -> None:
        self._root = root.path
        self._log = root.path.with_suffix(".console")

    def __enter__(self) -> Self:
        limit = ("timeout", "--kill-after=30", str(LIFETIME_S))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*limit, *CONTAINER, "--boot", f"--directory={self._root}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._first = self._systemd()
        self.wait(
            "a system that is up", lambda: self.outcome("systemctl is-system-running")[0] == 0
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def _systemd(self) -> int:
        """The first process of the container, in this machine's numbers."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._log.read_text()
            pids = [self._process.pid]
            while pids and (children := _children(pids[-1])):
                pids.append(children[0])
                if Path(f"/proc/{pids[-1]}/comm").read_text() == "systemd\n":
                    return pids[-1]
            time.sleep(0.1)
        raise AssertionError(self._log.read_text())

    def outcome(self, script: str) -> tuple[int, str]:
        """Run a script; its exit code and what it printed."""
        done = subprocess.run(
            [
                *("nsenter", "--all", f"--target={self._first}", "--", "/bin/sh", "-e"),
            ],
            input=script,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": "/root",
                "DEBIAN_FRONTEND": "noninteractive",
                "LC_ALL": "C.UTF-8",
            },
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
            check=False,
        )
        return done.returncode, done.stdout

    def run(self, script: str) -> str:
        """What a script printed. Fails with that, and the journal's end, if a command fails."""
        code, printed = self.outcome(script)
        assert code == 0, f"{script}\n{printed}\n{self.journal()}"
        return printed

    def journal(self) -> str:
        """Its last lines."""
        return self.outcome("journalctl -q --no-pager -n 40 2>&1")[1]

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Make a file."""
        file = self._root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def properties(self, unit: str, *names: str) -> list[str]:
        """What `systemctl show` says, in the order of the names."""
        lines = self.run(f"systemctl show -p {','.join(names)} {unit}").splitlines()
        found = dict(line.split("=", 1) for line in lines)
        return [found[name] for name in names]

    def wait(self, what: str, reached: Callable[[], bool]) -> None:
        """Until `reached`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert time.monotonic() < deadline, f"not reached: {what}\n{self.journal()}"
            time.sleep(0.5)


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
