"""Canaries and the servers they write to run in time that passes only while nothing is to be done: no machine is too slow for them, or too fast."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.unit.loops import PatientLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Everything there is runs in the loop's thread; but for a server that is a process of its own."""
    return (
        {"real": asyncio.new_event_loop}
        if item.path.name == "test_nbd.py"
        else {"patient": PatientLoop}
    )
