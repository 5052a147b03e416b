"""Canaries and their servers run in simulated time, so that no machine is too slow or too fast.

It passes only while nothing is to be done.
"""

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
    """All run in the loop's thread, except in test_nbd.py, where the server is a process."""
    return (
        {"real": asyncio.new_event_loop}
        if item.path.name == "test_nbd.py"
        else {"patient": PatientLoop}
    )
