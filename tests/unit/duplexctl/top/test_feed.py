"""What is said of a daemon that does not answer, and since when."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from duplexd.client.looking_on import LookingOn
from duplexd.duplexctl.top.feed import HEALTH_SECONDS, Feed
from duplexd.errors import DuplexdError, TimedOutError, UnreachableError
from tests.unit.duplexctl.top.looks import finding, look
from tests.unit.loops import PatientLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from duplexd.client.looking_on import Look
    from duplexd.json_object import Json

T = TypeVar("T")


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


class Changing(LookingOn):
    """Answers always; something is not well after the first look."""

    def __init__(self) -> None:
        self.looks: list[float] = []
        self.asked: list[float] = []

    async def look(self, cuts_of: str = "") -> Look:
        self.looks.append(asyncio.get_running_loop().time())
        return look(findings=[finding()] if len(self.looks) > 1 else [], cuts_of=cuts_of)

    async def health(self) -> list[Json] | None:
        self.asked.append(asyncio.get_running_loop().time())
        return [finding()]

    async def sign_of_life(self) -> None:
        """There is one."""


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, T]], patch: pytest.MonkeyPatch) -> T:
    async def timed() -> T:
        patch.setattr("duplexd.duplexctl.top.feed.monotonic", asyncio.get_running_loop().time)
        return await main()

    with asyncio.Runner(loop_factory=PatientLoop) as runner:
        return runner.run(timed())


def test_what_is_not_well_is_seen_in_seconds_whatever_the_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> tuple[float, list[float]]:
        looking = Changing()
        feed = Feed(looking, 600.0, str)
        await feed.look()
        running = asyncio.ensure_future(feed.run(lambda: None))
        await asyncio.sleep(60.0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        first, second = looking.looks
        return second - first, [at - second for at in looking.asked if at > second]

    took_s, later = in_virtual_time(main, monkeypatch)
    assert took_s <= HEALTH_SECONDS
    assert later, "and asked again while nothing changes"


@pytest.mark.parametrize(("interval", "old"), [(600.0, 15.0), (3.0, 6.0), (0.1, 2.0)])
def test_a_look_that_is_old_is_not_green(
    interval: float, old: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> list[str]:
        feed = Feed(Changing(), interval, str)
        await feed.look()
        said = []
        for seconds in (old - 0.5, 0.75):
            await asyncio.sleep(seconds)
            seen = feed.seen()
            assert seen is not None
            assert seen.well is (None if seen.silent else True)
            said.append(seen.silent)
        return said

    assert in_virtual_time(main, monkeypatch) == ["", f"NO FRESH LOOK for {old:.0f} s"]


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
