"""A fresh Debian 12 to install packages into: made once by debootstrap, a copy for each test.

Each script runs in namespaces of its own for processes and mounts, so whatever it starts ends with
it. There is no systemd that runs; `START` does what the unit does before and at a start.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# The directories of the unit (RuntimeDirectory=, StateDirectory=), its user and its command; it is
# Type=notify, so `systemctl start` returns when the daemon answers.
START = """
install -d -o duplexd -g duplexd /run/duplexd/first /var/lib/duplexd/first
setpriv --reuid=duplexd --regid=duplexd --init-groups \\
    duplexd run --config /etc/duplexd/first.toml 2>>/tmp/log &
daemon=$!
timeout 100 sh -c 'until duplexctl --quiet status 2>/dev/null; do sleep 0.2; done' ||
    { cat /tmp/log; exit 1; }
"""
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
STOP = "\nkill $daemon; wait $daemon\n"


@dataclass(frozen=True, slots=True)
class Root:
    """The directory of a root file system."""

    path: Path

    @classmethod
    def bootstrap(cls, path: Path) -> Root:
        subprocess.run(
            ["debootstrap", "--variant=minbase", "--include=python3,systemd", "bookworm", path],
            capture_output=True,
            timeout=1200,
            check=True,
        )
        return cls(path)

    def copy(self, path: Path) -> Root:
        subprocess.run(["cp", "-a", self.path, path], timeout=300, check=True)
        return Root(path)

    def add(self, package: Path, name: str) -> None:
        shutil.copy(package, self.path / name)

    def run(self, script: str) -> str:
        """Runs a script as root; what it printed. Fails with that if a command fails."""
        result = subprocess.run(
            [*NAMESPACES, f"--root={self.path}", "--mount-proc=/proc", "/bin/sh", "-e"],
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
        assert result.returncode == 0, result.stdout
        return result.stdout
