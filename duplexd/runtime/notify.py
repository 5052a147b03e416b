"""systemd: readiness, status and the watchdog's interval (sd_notify(3)).

The protocol is one datagram, so a library would be longer than this file. Failures are ignored: a
daemon that serves well must not stop because its service manager does not listen.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


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


def let_watchdog_wait(seconds: float = 0.0, environment: Mapping[str, str] = os.environ) -> None:
    """Have the manager wait that long for each `WATCHDOG=1` from now on, or as long as it was set
    up to, if that is longer.
    """
    if interval_s := watchdog_interval_s(environment):
        microseconds = int(max(2 * interval_s, seconds) * 1e6)
        notify(f"WATCHDOG_USEC={microseconds}", environment)


def watchdog_interval_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """Send `WATCHDOG=1` at least this often, or None: half of what the manager waits."""
    microseconds = _number(environment.get("WATCHDOG_USEC"))
    owner = environment.get("WATCHDOG_PID")
    if not microseconds or (owner is not None and _number(owner) != os.getpid()):
        return None
    return microseconds / 2e6


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
