"""What is said of a daemon that does not answer, and since when."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.client.looking_on import LookingOn
from duplexd.duplexctl.top.feed import Feed
from duplexd.errors import DuplexdError, TimedOutError, UnreachableError
from tests.unit.duplexctl.top.looks import look
from tests.unit.loops import PatientLoop

if TYPE_CHECKING:
    from duplexd.client.looking_on import Look


class Failing(LookingOn):
    """Answers once; later there is an error, `seconds` after it was asked."""

    def __init__(self, error: DuplexdError, seconds: float) -> None:
        self._answers = [look()]
        self._error = error
        self._seconds = seconds

    async def look(self, cuts_of: str = "") -> Look:
        if self._answers:
            return self._answers.pop()
        await asyncio.sleep(self._seconds)
        raise self._error


@pytest.mark.parametrize(
    ("error", "seconds", "said"),
    [
        (UnreachableError("no daemon answers"), 0.0, "NO DAEMON for 0 s: no daemon answers"),
        (TimedOutError("it is silent"), 30.0, "NO ANSWER for 30 s: it is silent"),
        (DuplexdError("no such route"), 0.0, "NO ANSWER for 0 s: no such route"),
    ],
)
def test_the_time_counts_from_the_request(
    error: DuplexdError, seconds: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> str:
        monkeypatch.setattr("duplexd.duplexctl.top.feed.monotonic", asyncio.get_running_loop().time)
        feed, failed = Feed(Failing(error, seconds), 0.1, str), asyncio.Event()
        await feed.look()
        running = asyncio.ensure_future(feed.run(failed.set))
        await failed.wait()
        seen = feed.seen()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return seen.silent if seen is not None else ""

    with asyncio.Runner(loop_factory=PatientLoop) as runner:
        assert runner.run(main()) == said
