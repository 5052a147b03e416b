"""Keys, as a terminal sends them: bytes to names.

An arrow is three bytes that begin with the one that Esc alone sends. Over a slow line they may
arrive apart, so a lone escape waits a moment for what follows (`ESCAPE_SECONDS`). Sequences that
are not known are swallowed whole: their last letters must not act as keys.
"""

from __future__ import annotations

import asyncio
import os
import re
import termios
import tty
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ESCAPE_SECONDS = 0.1
_READ_BYTES = 1024
_ESCAPE = b"\x1b"
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[ -~]|[^\[O\x1b])", re.DOTALL)
_UNFINISHED = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|O)?")
_NAMES = {
    b"\x1b[A": "up", b"\x1bOA": "up", b"k": "up",
    b"\x1b[B": "down", b"\x1bOB": "down", b"j": "down",
    b"\x1b[5~": "page up", b"\x1b[6~": "page down",
    b"\x1b[H": "home", b"\x1bOH": "home", b"\x1b[1~": "home",
    b"\x1b[F": "end", b"\x1bOF": "end", b"\x1b[4~": "end",
    b"\r": "enter", b"\n": "enter",
    b"b": "back", _ESCAPE: "back", b"\x7f": "back",
    b"s": "sort", b"?": "help", b"h": "help", b"q": "quit",
}  # fmt: skip


class Decoder:
    """Bytes as they come to names of keys; `other` for what means nothing."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def waiting(self) -> bool:
        """Is there the beginning of a sequence, or an Esc?"""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are whole now."""
        self._rest += data
        keys: list[bytes] = []
        while self._rest and not _UNFINISHED.fullmatch(self._rest):
            found = _SEQUENCE.match(self._rest)
            size = found.end() if found else 1
            keys.append(self._rest[:size])
            self._rest = self._rest[size:]
        return [_NAMES.get(key, "other") for key in keys]

    def end(self) -> list[str]:
        """Nothing follows: a lone escape was a key."""
        rest, self._rest = self._rest, b""
        return [_NAMES.get(rest, "other")] if rest else []


class Keyboard:
    """Calls `pressed` for each key while `reading`. Without a terminal there are none."""

    def __init__(self, fd: int, pressed: Callable[[str], object]) -> None:
        self._fd = fd
        self._pressed = pressed
        self._decoder = Decoder()
        self._escape: asyncio.TimerHandle | None = None
        self._before: list[int | list[bytes | int]] | None = None  # what the terminal was like

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within, the terminal is as it was before `reading`."""
        if self._before is None:
            yield
            return
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        try:
            yield
        finally:
            tty.setcbreak(self._fd, termios.TCSADRAIN)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within, keys come one by one and are not shown; ctrl-C and ctrl-Z still act."""
        if not os.isatty(self._fd):
            yield
            return
        loop = asyncio.get_running_loop()
        self._before = before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd, termios.TCSADRAIN)
        loop.add_reader(self._fd, self._read)
        try:
            yield
        finally:
            loop.remove_reader(self._fd)
            if self._escape is not None:
                self._escape.cancel()
            termios.tcsetattr(self._fd, termios.TCSADRAIN, before)

    def _read(self) -> None:
        loop = asyncio.get_running_loop()
        if self._escape is not None:
            self._escape.cancel()
        try:
            data = os.read(self._fd, _READ_BYTES)
        except OSError:  # the terminal has gone
            data = b""
        if not data:
            loop.remove_reader(self._fd)
            return
        self._tell(self._decoder.feed(data))
        if self._decoder.waiting:
            self._escape = loop.call_later(ESCAPE_SECONDS, lambda: self._tell(self._decoder.end()))

    def _tell(self, keys: list[str]) -> None:
        for key in keys:
            self._pressed(key)
