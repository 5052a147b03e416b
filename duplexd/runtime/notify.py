"""systemd: readiness and status, the watchdog's interval, sockets that were opened for us
(sd_notify(3), sd_listen_fds(3)).
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

_FIRST_FD = 3


def notify(state: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send lines such as `READY=1` or `STATUS=...` to the service manager. False if there is none,
    or it does not listen.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address[0] == "@":
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as peer:
            peer.settimeout(1.0)
            peer.connect(address)
            peer.sendall(state.encode())
    except OSError:
        return False
    return True


def watchdog_interval_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """Send `WATCHDOG=1` at least this often, or None: half of what the manager waits."""
    microseconds = _number(environment.get("WATCHDOG_USEC"))
    owner = environment.get("WATCHDOG_PID")
    if not microseconds or (owner is not None and _number(owner) != os.getpid()):
        return None
    return microseconds / 2e6


def listening_sockets(
    environment: MutableMapping[str, str] = os.environ,
) -> list[tuple[str, socket.socket]]:
    """`(name, socket)` for each socket the manager passed to this process; taken once, children do
    not get them.
    """
    owner = _number(environment.pop("LISTEN_PID", None))
    count = _number(environment.pop("LISTEN_FDS", None))
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if owner != os.getpid() or not count:
        return []
    found = []
    for number in range(count):
        fd = _FIRST_FD + number
        os.set_inheritable(fd, False)
        name = names[number] if number < len(names) else ""
        found.append((name or "unknown", socket.socket(fileno=fd)))
    return found


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
