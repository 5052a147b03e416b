"""Asks the daemon again and again, and keeps what it said last. Nothing here ends it but who began.

A daemon that is killed refuses the next connection; one that is stopped, or hangs, takes it and is
silent. Both are said within about a second, whatever the interval: between two looks there is a
sign of life each second. A request that has no answer yet is not given up: it is answered as soon
as the daemon goes on.

Health is asked for every few seconds, whatever the interval; where it has changed, all is looked at
again. What is on the screen is old after two intervals, or less: it is said then, whatever keeps
the next look away, as when this program was stopped for a while.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from time import monotonic, time
from typing import TYPE_CHECKING

from duplexd.duplexctl.top.moment import moment, with_findings
from duplexd.duplexctl.top.overview import overview
from duplexd.errors import DuplexdError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from duplexd.client.looking_on import LookingOn
    from duplexd.duplexctl.top.moment import Moment, Shown
    from duplexd.duplexctl.top.overview import Overview
    from duplexd.json_object import Json

BEAT_SECONDS = 1.0  # between signs of life, and how long an answer may take unnoticed
HEALTH_SECONDS = 5.0  # between two looks at health at most
OLD_SECONDS_MIN, OLD_SECONDS_MAX = 2.0, 15.0  # from then on what is known is old


class Feed:
    """The last two looks, and what is wrong with the daemon."""

    def __init__(self, looking: LookingOn, interval_s: float, shown: Shown) -> None:
        self._looking = looking
        self._interval_s = interval_s
        self._shown = shown
        self._before: Moment | None = None
        self._now: Moment | None = None
        self._old_s = min(max(2 * interval_s, OLD_SECONDS_MIN), OLD_SECONDS_MAX)
        self._fresh_at = 0.0  # when health was had last
        self._asked_at: float | None = None  # a request that has no answer yet
        self._cuts_of = ""
        self._hurry = asyncio.Event()
        self._asked_last = 0.0
        self._fault = ""
        self._fault_word = ""
        self._fault_at = 0.0
        self._seen: tuple[Moment, str, Overview] | None = None  # what it was made of, and is

    def aim(self, cuts_of: str) -> None:
        """From now on the cuts are those of this volume or group, or all; look at once."""
        if cuts_of != self._cuts_of:
            self._cuts_of = cuts_of
            self._hurry.set()

    async def look(self) -> None:
        """Once. Raises what the daemon, or who is between, says instead of an answer."""
        with self._asking():
            look = await self._looking.look(self._cuts_of)
        self._before, self._now = self._now, moment(look, monotonic(), time(), self._shown)
        self._fresh_at = monotonic()
        self._fault = ""

    async def run(self, changed: Callable[[], object]) -> None:
        """Look until it is cancelled; call `changed` when there is something new to see."""
        while True:
            try:
                if self._fault:
                    await asyncio.sleep(min(BEAT_SECONDS, self._interval_s))
                else:
                    await self._pause(changed)
                await self.look()
            except DuplexdError as error:
                if not self._fault:
                    self._fault_at = self._asked_last
                gone = isinstance(error, UnreachableError)
                self._fault_word = "NO DAEMON" if gone else "NO ANSWER"
                self._fault = self._shown(str(error))
            changed()

    async def _pause(self, changed: Callable[[], object]) -> None:
        """As long as the interval, with signs of life; shorter if somebody cannot wait, or there is
        something else that is not well.
        """
        until = monotonic() + self._interval_s
        while (left_s := until - monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(BEAT_SECONDS, left_s)):
                    await self._hurry.wait()
                self._hurry.clear()
                return
            if until - monotonic() <= BEAT_SECONDS:
                continue
            if monotonic() - self._fresh_at < HEALTH_SECONDS - BEAT_SECONDS:
                await self._sign_of_life()
            elif await self._health_changed():
                return
            else:
                changed()

    async def _sign_of_life(self) -> None:
        with self._asking():
            await self._looking.sign_of_life()

    async def _health_changed(self) -> bool:
        """Ask for it. The texts of findings change with the time, so they do not count."""
        with self._asking():
            found = await self._looking.health()
        before = self._now
        if before is None:
            return True
        self._now, self._fresh_at = with_findings(before, found, self._shown), monotonic()
        return _kinds(self._now.findings) != _kinds(before.findings)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        self._asked_at = self._asked_last = monotonic()
        try:
            yield
        finally:
            self._asked_at = None

    def seen(self) -> Overview | None:
        """What there is to see now; None before the first look. The same object as before while
        nothing has changed: of a thousand volumes it takes a tenth of a second to make.
        """
        if self._now is None:
            return None
        silent = self._silent()
        if self._seen is None or self._seen[0] is not self._now or self._seen[1] != silent:
            made = overview(self._before, self._now, silent, time())
            self._seen = (self._now, silent, made)
        return self._seen[2]

    def _silent(self) -> str:
        now = monotonic()
        if self._fault:
            return f"{self._fault_word} for {now - self._fault_at:.0f} s: {self._fault}"
        if self._asked_at is not None and now - self._asked_at > BEAT_SECONDS:
            return f"NO ANSWER for {now - self._asked_at:.0f} s"
        if now - self._fresh_at > self._old_s:
            return f"NO FRESH LOOK for {now - self._fresh_at:.0f} s"
        return ""


def _kinds(findings: list[Json] | None) -> object:
    return findings and [(each.get("kind"), each["severity"], each["volume"]) for each in findings]
