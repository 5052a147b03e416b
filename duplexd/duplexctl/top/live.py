"""The terminal: draws frames in place, takes keys, and leaves the terminal as it was.

A frame is drawn when there is something new to see: a look came, a key was pressed, the terminal
got another size, or the daemon is silent for another second.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.text import Text

from duplexd.duplexctl.output import writing
from duplexd.duplexctl.top.frame import frame, scrolled_max
from duplexd.duplexctl.top.keyboard import Keyboard
from duplexd.duplexctl.top.lines import style_of
from duplexd.duplexctl.top.listing import items
from duplexd.duplexctl.top.position import Item, Position, press

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from duplexd.duplexctl.top.feed import Feed
    from duplexd.duplexctl.top.lines import Line
    from duplexd.duplexctl.top.overview import Overview

_DRAW_SECONDS = 0.5
_ENDING = (signal.SIGQUIT,)  # ctrl-\; SIGINT, SIGTERM and SIGHUP end any command alike


def drawn(lines: Sequence[Line]) -> Group:
    """For rich."""
    return Group(
        *(
            Text.assemble(
                *((span.text, style_of(span.style)) for span in each),
                no_wrap=True,
                overflow="crop",
                end="",
            )
            + Text("\n" if number < len(lines) - 1 else "")
            for number, each in enumerate(lines)
        )
    )


class Screen:
    """A terminal with a feed on it."""

    def __init__(self, console: Console, feed: Feed) -> None:
        self._console = console
        self._feed = feed
        self._live = Live(console=console, auto_refresh=False, screen=True)
        self._position = Position()
        self._wake = asyncio.Event()
        self._killed_by = 0  # a signal that ends the program once the terminal is as it was
        # what is on the screen: of what, where, and how large
        self._there: tuple[Overview, Position, tuple[int, int]] | None = None

    async def show(self) -> None:
        """Until somebody quits. Raises OutputError."""
        keyboard = Keyboard(sys.stdin.fileno(), self._press)
        feeding = asyncio.ensure_future(self._feed.run(self._wake.set))
        try:
            with keyboard.reading(), self._signals(keyboard), self._drawing():
                while not (self._position.leaving or self._killed_by):
                    self._draw()
                    if feeding.done():
                        feeding.result()  # a mistake of ours: nothing else ends it
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_DRAW_SECONDS):
                            await self._wake.wait()
                    self._wake.clear()
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            if self._killed_by:
                os.kill(os.getpid(), self._killed_by)

    def _press(self, key: str) -> None:
        before, found, most = self._position, list[Item](), 0
        if (seen := self._feed.seen()) is not None:
            found, most = items(seen, before), scrolled_max(seen, before, self._console.width)
        self._position = press(before, key, found, most)
        at = self._position.at
        self._feed.aim(at.name if at is not None else "")
        self._wake.set()

    def _draw(self) -> None:
        seen = self._feed.seen()
        if seen is None:
            return
        width, height = self._console.size
        there, self._there = self._there, (seen, self._position, (width, height))
        if there is None or there[0] is not seen or there[1:] != self._there[1:]:
            lines = frame(seen, self._position, width, height)
            with writing():
                self._live.update(drawn(lines), refresh=True)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        with writing(), self._live:
            yield

    @contextmanager
    def _signals(self, keyboard: Keyboard) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGWINCH, self._wake.set)
        loop.add_signal_handler(signal.SIGTSTP, self._stop, keyboard)
        ending = [each for each in _ENDING if signal.getsignal(each) is signal.SIG_DFL]
        for number in ending:
            loop.add_signal_handler(number, self._end, number)
        try:
            yield
        finally:
            for number in (signal.SIGWINCH, signal.SIGTSTP, *ending):
                loop.remove_signal_handler(number)

    def _end(self, number: int) -> None:
        self._killed_by = number
        self._wake.set()

    def _stop(self, keyboard: Keyboard) -> None:
        """Ctrl-Z: the shell gets the terminal as it was, and gives it back with SIGCONT."""
        loop = asyncio.get_running_loop()
        with writing():
            with keyboard.paused():
                self._live.stop()
                loop.remove_signal_handler(signal.SIGTSTP)  # it does now what it does by itself
                os.kill(os.getpid(), signal.SIGTSTP)
            # `bg` has stopped it again at the modes of the terminal, before anything is drawn
            loop.add_signal_handler(signal.SIGTSTP, self._stop, keyboard)
            self._live.start()
        self._there = None
        self._wake.set()
