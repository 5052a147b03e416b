from __future__ import annotations

import errno
import threading
import time
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime.in_time import Patience

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """`wait` of it is a call that hangs until the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_a_call_that_returns_is_as_if_it_were_made_here() -> None:
    patience = Patience(60.0)
    assert patience.call(lambda: 7) == 7
    with pytest.raises(FileNotFoundError):
        patience.call(lambda: open("/nowhere"))  # noqa: SIM115


def test_a_call_that_hangs_is_left_behind(hanging: threading.Event) -> None:
    with pytest.raises(OSError, match=r"does not answer for 0\.01 s") as caught:
        Patience(0.01).call(hanging.wait)
    assert caught.value.errno == errno.ETIMEDOUT


def test_many_that_hang_do_not_wait_for_each_other(hanging: threading.Event) -> None:
    patience = Patience(0.01)
    for _ in range(3):
        with pytest.raises(OSError, match="does not answer"):
            patience.call(hanging.wait)
    assert patience.call(lambda: "the disk beside it") == "the disk beside it"


def test_a_call_that_computes_does_not_hang_however_long_it_takes() -> None:
    def compute() -> int:
        end = time.thread_time() + 0.5
        while time.thread_time() < end:
            pass
        return 7

    assert Patience(0.02).call(compute) == 7


@pytest.mark.parametrize("pause_s", [0.0, 0.001])
def test_a_call_that_works_without_an_end_is_left_behind(
    hanging: threading.Event, pause_s: float
) -> None:
    """It reads a device that never ends, or looks again and again."""

    def work() -> None:
        until = time.monotonic() + 10.0
        while not hanging.is_set() and time.monotonic() < until:
            hanging.wait(pause_s)

    with pytest.raises(OSError, match="does not answer"):
        Patience(0.05).call(work, awake_seconds=0.2)


def test_sleep_between_work_counts(hanging: threading.Event) -> None:
    def work_and_wait() -> None:
        sum(range(100_000))
        hanging.wait()

    with pytest.raises(OSError, match="does not answer"):
        Patience(0.02).call(work_and_wait)
