"""Mounting by fusermount3, which needs no privilege: it hands over a descriptor of /dev/fuse."""

from __future__ import annotations

import os
import socket
import subprocess

TOOL = "fusermount3"
_OPTIONS = "rw,nosuid,nodev,fsname=faulty-disk,subtype=duplexd-test"


class NoFuseError(AssertionError):
    """This machine cannot mount a FUSE file system; the text says what to do."""


def mount(mount_point: str) -> int:
    """Mount, and return the descriptor of the connection, which no child inherits."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            done = subprocess.run(
                [TOOL, "-o", _OPTIONS, "--", mount_point],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            raise NoFuseError(f"there is no {TOOL}: run `make apt` (package fuse3)") from None
        if done.returncode != 0:
            raise NoFuseError(
                f"{TOOL} cannot mount {mount_point}: {done.stderr.strip()}; these tests need "
                "/dev/fuse, readable and writable (`modprobe fuse`; in a container "
                "--device /dev/fuse --cap-add SYS_ADMIN)"
            )
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    os.set_inheritable(fds[0], False)
    return fds[0]


def unmount(mount_point: str) -> None:
    """Take it off the tree of files at once; who has files open there keeps them until the server
    ends.
    """
    subprocess.run([TOOL, "-u", "-z", "-q", "--", mount_point], capture_output=True, check=False)
