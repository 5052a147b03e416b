"""A program on a terminal: what is on its screen, and keys for it.

    with Terminal([*command, "top"], columns=80, lines=24) as terminal:
        terminal.wait("well: 1 volume")
        terminal.press(b"q")
        assert terminal.end() == 0

The screen is what was written since the program last went to its upper left corner, without the
codes for colours. It is the child's controlling terminal, so that ctrl-C and its size act as for a
user.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CODES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_HOME = b"\x1b[H"
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)


class Terminal:
    """A context manager; at its end the program is killed if it still runs."""

    def __init__(
        self,
        command: Sequence[str],
        columns: int = 80,
        lines: int = 24,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """`more`: variables of its environment."""
        self.written = b""
        self._command = command
        self._size = (lines, columns)
        sizes = ("COLUMNS", "LINES")  # of the terminal that the tests were started on
        kept = {name: text for name, text in environment().items() if name not in sizes}
        self._environment = {**kept, "TERM": "xterm-256color", **(more or {})}
        self._status: int | None = None
        self.first_modes: list[object] = []  # before the program began

    def __enter__(self) -> Self:
        looked, done = os.pipe()
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            try:
                os.read(looked, 1)  # it may change them at once
                os.chdir(ROOT)
                for number in _SIGNALS:  # who starts the tests in the background has them ignored
                    signal.signal(number, signal.SIG_DFL)
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", *self._size, 0, 0))
                os.execve(  # noqa: S606 - of the child
                    self._command[0], list(self._command), self._environment
                )
            finally:
                os._exit(127)
        self.first_modes = self.modes()
        os.write(done, b"x")
        os.close(looked)
        os.close(done)
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._fd)

    def resize(self, columns: int, lines: int) -> None:
        """The user changes the size of the window; the kernel tells the program."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def press(self, key: bytes) -> None:
        os.write(self._fd, key)

    def kill(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self._pid, number)

    def modes(self) -> list[object]:
        """What its settings are, as termios has them."""
        return list(termios.tcgetattr(self._fd))

    @property
    def drawn(self) -> bytes:
        """The same, as it was written."""
        return self.written.rpartition(_HOME)[2]

    @property
    def screen(self) -> list[str]:
        """The lines, without colours."""
        text = _CODES.sub(b"", self.drawn)
        return [line.rstrip() for line in text.decode(errors="replace").split("\r\n")]

    def wait(self, *texts: str, without: str | None = None) -> list[str]:
        """The screen, once it has all of these texts, and not the one it must be `without`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            shown = "\n".join(self.screen)
            if all(text in shown for text in texts) and (without is None or without not in shown):
                return self.screen
            left = deadline - time.monotonic()
            assert left > 0, f"{texts} did not come:\n{shown}"
            assert self._read(left), f"it ended without {texts}:\n{shown}"

    def more(self) -> None:
        """Wait until it has written something."""
        assert self._read(PATIENCE_SECONDS)

    def _read(self, seconds: float) -> bool:
        """More of what it writes; False once it has ended."""
        ready, _, _ = select.select([self._fd], [], [], seconds)
        try:
            data = os.read(self._fd, 1 << 16) if ready else b""
        except OSError:  # that is how a terminal ends
            return False
        self.written += data
        return bool(data) or not ready

    def end(self) -> int:
        """Its exit code, once it has ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with suppress(OSError):
            while self._read(max(0.0, deadline - time.monotonic())):
                assert time.monotonic() < deadline, "it did not end:\n" + "\n".join(self.screen)
        _, status = os.waitpid(self._pid, 0)
        self._status = os.waitstatus_to_exitcode(status)
        return self._status
