"""The log has what health says, too: each finding once when it comes, and once when it is gone.

Most findings have an event of their own when something fails. Those that come by themselves, a cut
that grows old or a disk that fills up, happen at no moment, so nothing would be logged of them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from duplexd.core.findings import Finding

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")


class _Key(NamedTuple):
    """What stays the same of a finding while its text counts hours or bytes."""

    kind: str
    volume: str
    about: str


class Complaints:
    """Of one daemon. `findings`: all that is not well now."""

    def __init__(self, findings: Callable[[], Iterable[Finding]]) -> None:
        self._findings = findings
        self._known: set[_Key] = set()

    async def look_forever(self, interval_s: float) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                self.look()
            except Exception:
                log.exception("unexpected error of a look at health")

    def look(self) -> None:
        """Log what has come and gone since the last look."""
        found = {_Key(each.kind, each.volume, each.about): each for each in self._findings()}
        for key, finding in found.items():
            if key not in self._known:
                fields = {"kind": finding.kind, "volume": finding.volume or None}
                getattr(log, finding.severity)("not well", **fields, finding=finding.text)
        for kind, volume, about in sorted(self._known - found.keys()):
            log.info("well again", kind=kind, volume=volume or None, about=about or None)
        self._known = set(found)
