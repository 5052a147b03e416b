"""The host's tools that the virtual machine is made of.

One that is missing is a failure which says what to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TOOL_TIMEOUT_S = 600.0
PACKAGES = {
    "apt-cache": "apt",
    "apt-get": "apt",
    "blkid": "util-linux",
    "busybox": "busybox-static",
    "cp": "coreutils",
    "curl": "curl",
    "dash": "dash",
    "debugfs": "e2fsprogs",
    "depmod": "kmod",
    "dmsetup": "dmsetup",
    "dpkg": "dpkg",
    "dpkg-deb": "dpkg",
    "dumpe2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "filefrag": "e2fsprogs",
    "fsck.ext4": "e2fsprogs",
    "install": "coreutils",
    "kill": "procps",
    "ldd": "libc-bin",
    "mkfs.ext4": "e2fsprogs",
    "modprobe": "kmod",
    "mount": "mount",
    "nbd-client": "nbd-client",
    "nbdcopy": "libnbd-bin",
    "nologin": "login",
    "qemu-system-x86_64": "qemu-system-x86",
    "resize2fs": "e2fsprogs",
    "setpriv": "util-linux",
    "timeout": "coreutils",
    "umount": "mount",
    "useradd": "passwd",
}
SEARCH_PATH = os.pathsep.join(
    [os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"]
)


class MachineError(Exception):
    """The virtual machine, or something it is made of, did not do what was asked."""


def tool(name: str) -> str:
    """Path of a program; the directories of root's programs are searched for everybody."""
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        raise MachineError(f"{name} is not installed: run apt-get install {PACKAGES[name]}")
    return path


def run_tool(
    name: str, *arguments: str | Path, ok: tuple[int, ...] = (0,), cwd: Path | None = None
) -> str:
    """Run a host program to its end; returns what it printed.

    Raises MachineError for any other exit status than `ok`.
    """
    command = [tool(name), *map(str, arguments)]
    environment = dict(os.environ, LC_ALL="C", PATH=SEARCH_PATH)
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TOOL_TIMEOUT_S,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    if done.returncode not in ok:
        raise MachineError(f"{' '.join(command)}: exit status {done.returncode}\n{output}")
    return output
