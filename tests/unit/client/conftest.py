"""Fixtures for tests of the coordinator.

Their time is that of the loop: what is to come first does, however long the machine takes for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.client import coordinator, hold, survey
from tests.unit import loops

if TYPE_CHECKING:
    from collections.abc import Callable


def pytest_asyncio_loop_factories(
    item: pytest.Function,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """TLS is spoken over TCP, whose two ends the kernel connects in its own time."""
    return (
        {"tcp": asyncio.new_event_loop}
        if "tls" in item.fixturenames
        else {"patient": loops.PatientLoop}
    )


@pytest.fixture(autouse=True)
def the_loops_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the coordinator measures, and what it waits for, go by one clock."""
    for module in (coordinator, hold, survey):
        monkeypatch.setattr(module, "monotonic", loops.now)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round trips count nothing."""
    monkeypatch.setattr(survey, "PHASES", 0)
