"""A service manager for tests: receives what a daemon sends to NOTIFY_SOCKET."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

from tests.support.daemon import PATIENCE_SECONDS

if TYPE_CHECKING:
    from pathlib import Path


class ServiceManager:
    """Binds a notification socket; `messages` are those received, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def environment(self, watchdog_s: float = 0.0) -> dict[str, str]:
        watchdog = {"WATCHDOG_USEC": str(int(watchdog_s * 1e6))} if watchdog_s else {}
        return {"NOTIFY_SOCKET": str(self.path), **watchdog}

    def wait(self, line: str, seconds: float = PATIENCE_SECONDS, count: int = 1) -> None:
        """Return when `count` messages have a line that begins with `line`. Raises
        AssertionError.
        """
        deadline = time.monotonic() + seconds
        while len(self.having(line)) < count:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                self.messages.append(self._socket.recv(65536).decode())
            except TimeoutError:
                raise AssertionError(
                    f"{line!r} came {len(self.having(line))} times in {seconds} s, not {count}; "
                    f"received: {self.messages}"
                ) from None

    def having(self, line: str) -> list[int]:
        """The places of the messages that have such a line."""
        return [
            place
            for place, message in enumerate(self.messages)
            if any(part.startswith(line) for part in message.splitlines())
        ]

    def take_all(self) -> None:
        """Receive what has been sent already."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.messages.append(self._socket.recv(65536).decode())

    def close(self) -> None:
        self._socket.close()
