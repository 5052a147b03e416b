"""What to say of a daemon that takes a connection and does not answer.

It was stopped, its loop hangs, or the machine has no time for it, and each needs something else to
be done. The kernel knows which process listens behind a Unix socket, also while that process does
nothing, and what the process is doing.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

_UCRED = struct.Struct("3i")  # pid, uid, gid
_STATES = {
    "T": "is stopped (SIGSTOP): continue it with `kill -CONT {pid}`",
    "t": "is stopped by a debugger",
    "D": "waits for a disk in the kernel (state D): look at `dmesg`",
    "Z": "has ended, and is not waited for",
}
_OTHERWISE = "does not answer: see its log; if it stays so, restart it"


def remedy(path: str) -> str:
    """What the process behind a socket does, and what to do about it."""
    pid = _listener(path)
    if pid <= 1:  # of another machine or namespace, or the socket is one of systemd's
        return f"the daemon {_OTHERWISE}"
    return f"process {pid} " + _STATES.get(_state(pid), _OTHERWISE).format(pid=pid)


def _listener(path: str) -> int:
    """The process that listens there; 0 if that cannot be found out."""
    with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        probe.connect(path)
        found = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return int(_UCRED.unpack(found)[0])
    return 0


def _state(pid: int) -> str:
    """The letter that `ps` shows; empty if it is not known."""
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
        return fields[0].decode() if fields else ""
    return ""
