"""The controller runs in time that passes only while nothing is to be done: no hold ends, and no
interval is over, because the machine is slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.loops import PatientLoop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Everything there is runs in the loop's thread."""
    return {"patient": PatientLoop}
