"""Where the page gets what it shows, and how often.

A page is written every two seconds at most, however many ask for it: a request in between gets
the same one. The samples of the last hour are taken here, and only here: without a listener nobody
would see them.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from duplexd.api.last_hour import SAMPLE_SECONDS, LastHour
from duplexd.api.page import Glance, page, shown_volumes
from duplexd.api.page_style import STYLE
from duplexd.api.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from duplexd.api.last_hour import Counted
    from duplexd.core.findings import Finding
    from duplexd.json_object import Json

    # status, findings, cuts
    Look = Callable[[], tuple[Json, list[Finding], list[Json]]]

FRESH_SECONDS = 2.0  # 50 volumes take some 40 ms to write: 2 % of a processor at most
_POLICY = (
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
_HEADERS = (
    ("content-security-policy", _POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
)


class PageSource:
    """`look` says how things are; `traffic` is what the NBD server has counted, by volume."""

    def __init__(
        self,
        look: Look,
        traffic: Callable[[], Mapping[str, Counted]],
        fresh_seconds: float = FRESH_SECONDS,
    ) -> None:
        self._look = look
        self._traffic = traffic
        self._fresh_seconds = fresh_seconds
        self._hour = LastHour()
        self._sampled = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[Answer] | None = None
        self._written = 0.0

    def start(self) -> None:
        """Take samples from now on, until `stop`."""
        loop = asyncio.get_running_loop()
        now, before = loop.time(), self._sampled
        self._hour.note(self._traffic(), now - before if before else SAMPLE_SECONDS)
        self._sampled = now
        self._timer = loop.call_later(SAMPLE_SECONDS, self.start)

    def stop(self) -> None:
        """Take no further samples."""
        if self._timer is not None:
            self._timer.cancel()

    async def page(self) -> Answer:
        """As it was at most `fresh_seconds` ago, or longer if it takes that long to write: one is
        written at a time.
        """
        now, writing = asyncio.get_running_loop().time(), self._writing
        if writing is None or (writing.done() and now - self._written >= self._fresh_seconds):
            self._written = now
            self._writing = writing = asyncio.ensure_future(self._write())
        return await asyncio.shield(writing)

    async def style(self) -> Answer:
        """The style sheet."""
        return Answer(200, "text/css; charset=utf-8", STYLE.encode(), _HEADERS)

    async def _write(self) -> Answer:
        status, findings, cuts = self._look()
        names = [volume["name"] for volume in shown_volumes(status, findings)]
        hour = {name: line for name in names if (line := self._hour.of(name)) is not None}
        glance = Glance(status, findings, cuts, hour, time.time())
        written = await asyncio.to_thread(page, glance)
        return Answer(200, "text/html; charset=utf-8", written.encode(), _HEADERS)
