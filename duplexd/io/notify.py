"""What systemd is told: the notification protocol of sd_notify(3), and the watchdog of sd_watchdog_enabled(3). No-ops where nobody listens."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Notifier:
    """Datagrams to the service manager. Sending never blocks and never raises: a service must run without its manager too."""

    __slots__ = ("_address", "_socket", "watchdog_s")

    def __init__(self, environment: Mapping[str, str] | None = None, pid: int | None = None) -> None:
        env = os.environ if environment is None else environment
        address = env.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address[:1] in {"@", "/"} else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self.watchdog_s = self._watchdog(env, os.getpid() if pid is None else pid)

    @staticmethod
    def _watchdog(env: Mapping[str, str], pid: int) -> float:
        """Seconds within which WATCHDOG=1 is expected; 0 if it is not."""
        interval_us, wanted_pid = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
        if not interval_us.isdecimal() or (wanted_pid and wanted_pid != str(pid)):
            return 0.0
        return int(interval_us) / 1e6

    def send(self, *lines: str) -> bool:
        """One datagram of `NAME=value` lines. False if nobody took it."""
        if self._socket is None:
            return False
        text = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            self._socket.sendto(text.encode(errors="replace"), self._address)
        except OSError:
            return False
        return True

    def ready(self, status: str) -> None:
        self.send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reading the configuration again")

    def starting(self, status: str, more_s: float) -> None:
        """Still starting, and alive: the manager is to wait `more_s` seconds from now."""
        self.send(f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={int(more_s * 1e6)}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
