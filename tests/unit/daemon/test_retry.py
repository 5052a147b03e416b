from __future__ import annotations

from dataclasses import replace

import pytest

from duplexd.daemon.retry import Patience
from duplexd.errors import ConfigurationError, DuplexdError, WrongStateError
from duplexd.limits import DaemonLimits

# time is counted, not measured: no attempt of these waits for a clock
TICK_SECONDS = 2.0**-20
LIMITS = replace(
    DaemonLimits(), passing_seconds_max=3 * TICK_SECONDS, passing_retry_seconds=TICK_SECONDS
)


class Attempts:
    """Raises these, one each time, then succeeds."""

    def __init__(self, *errors: DuplexdError) -> None:
        self.errors = list(errors)
        self.made = 0

    async def make(self) -> int:
        self.made += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.made


async def test_what_passes_is_tried_again_and_each_reason_said_once() -> None:
    said: list[str] = []
    taken, gone = WrongStateError("port taken"), WrongStateError("no such address")
    attempts = Attempts(taken, taken, gone)
    assert await Patience(LIMITS, said.append).until_possible(attempts.make) == 4
    assert said == ["port taken", "no such address"]


async def test_after_a_while_it_is_an_error_that_a_service_manager_restarts() -> None:
    taken = [WrongStateError("port taken") for _ in range(10)]
    attempts = Attempts(*taken)
    with pytest.raises(WrongStateError, match="port taken"):
        await Patience(LIMITS, lambda _: None).until_possible(attempts.make)
    assert attempts.made == 4


async def test_the_time_is_that_of_the_whole_start() -> None:
    patience = Patience(LIMITS, lambda _: None)
    await patience.until_possible(Attempts(*[WrongStateError("a")] * 3).make)
    with pytest.raises(WrongStateError, match="b"):
        await patience.until_possible(Attempts(WrongStateError("b")).make)


async def test_a_mistake_is_an_error_at_once() -> None:
    attempts = Attempts(ConfigurationError("wrong"))
    with pytest.raises(ConfigurationError):
        await Patience(LIMITS, lambda _: None).until_possible(attempts.make)
    assert attempts.made == 1
