"""Markers of a job that can wait: written as soon as the journal has room for them.

A journal without room refuses a marker as it refuses a write. A job that gave up then would leave
its pairs PENDING with nobody working on them, and the marker that says so would be refused as well.
So a job waits: the refusal has already woken what makes room (`JournalSpace.no_space`), and the
states that the marker would change stay as a restart would find them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from duplexd.journal.writer import NO_SPACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.replication.seams import Timeline

T = TypeVar("T")

_PAUSE_SECONDS = 0.05


async def when_there_is_room(timeline: Timeline, call: Callable[[], T]) -> T:
    """The result of `call`, run at rest, and run again as long as the journal has no room for it.

    `call` must have done nothing when it raises that. Raises OSError if the controller fails.
    """
    while True:
        try:
            return await timeline.at_rest(call)
        except OSError as error:
            if error.errno not in NO_SPACE or timeline.failed:
                raise
        await asyncio.sleep(_PAUSE_SECONDS)
