"""Sockets that a service manager passed: they listen already, and clients may wait on them.

systemd, and libnbd's `[ COMMAND ]`, leave them at descriptors 3 and up and say so in three
variables (sd_listen_fds(3)):

| variable | meaning |
|---|---|
| `LISTEN_PID` | the process that they are for; for any other one there are none |
| `LISTEN_FDS` | how many |
| `LISTEN_FDNAMES` | their names, with colons between them; may be missing |

Ours are `nbd` and `control`. One without a name is for NBD: libnbd gives none, and systemd the name
of its unit. They belong to the manager, so the file of a Unix socket is never removed by us.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, NamedTuple

from duplexd.errors import ConfigurationError
from duplexd.net.address import UnixAddress
from duplexd.net.listen import BoundSocket

if TYPE_CHECKING:
    from collections.abc import MutableMapping

FIRST = 3  # sd-daemon.h: SD_LISTEN_FDS_START
NBD, CONTROL = "nbd", "control"
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class Passed(NamedTuple):
    """The sockets that were passed, by what they are for."""

    nbd: list[BoundSocket]
    control: BoundSocket | None = None


NOTHING_PASSED = Passed([])


def passed_sockets(
    environment: MutableMapping[str, str] = os.environ, first: int = FIRST
) -> Passed:
    """Take them, once: the variables are removed, so that no child takes them, too.

    Raises ConfigurationError for what cannot be served.
    """
    pid, count, names = (environment.pop(name, "") for name in _VARIABLES)
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return Passed([])
    named = names.split(":") if names else []
    of: dict[str, list[BoundSocket]] = {NBD: [], CONTROL: []}
    with contextlib.ExitStack() as undo:
        for index in range(int(count)):
            name = named[index] if index < len(named) else ""
            taken = _take(first + index, name)
            undo.callback(taken.close)
            of[_purpose(name)].append(taken)
        control = of[CONTROL]
        if len(control) > 1 or (control and not isinstance(control[0].address, UnixAddress)):
            raise ConfigurationError(
                "LISTEN_FDNAMES: `control` names one Unix socket; control over TCP is"
                " configured in [control.tls]"
            )
        undo.pop_all()
    return Passed(of[NBD], control[0] if control else None)


def _purpose(name: str) -> str:
    """`unknown` and the name of a unit is what systemd says where nothing was configured."""
    if name in (NBD, CONTROL):
        return name
    if name in ("", "unknown") or name.endswith(".socket"):
        return NBD
    raise ConfigurationError(
        f"LISTEN_FDNAMES: {name!r} is not a name of a socket of duplexd; expected"
        f" FileDescriptorName={NBD} or {CONTROL} in the socket unit"
    )


def _take(descriptor: int, name: str) -> BoundSocket:
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        why = error.strerror or str(error)
    else:
        why = _why_unusable(sock)
        if not why:
            sock.setblocking(False)
            return BoundSocket(sock, ours=False)
        sock.close()
    raise ConfigurationError(
        f"LISTEN_FDS: descriptor {descriptor} ({name or 'without a name'}) cannot be served: {why};"
        " pass ListenStream= sockets"
    )


def _why_unusable(sock: socket.socket) -> str:
    families = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not listens or sock.type != socket.SOCK_STREAM or sock.family not in families:
        return "not a listening stream socket"
    if sock.family == socket.AF_UNIX and not isinstance(sock.getsockname(), str):
        return "an abstract Unix socket, which has no mode"
    return ""
