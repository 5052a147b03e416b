"""A live control socket for each test that asks for one: `plane` as it is, `serve` with limits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.limits import ApiLimits
from tests.support.control_plane import ControlPlane
from tests.unit import loops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def pytest_asyncio_loop_factories(
    item: pytest.Function,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Turns of the loop are measured by its own time; the others have sockets and threads."""
    if item.path.name == "test_lanes.py":
        return {"patient": loops.PatientLoop}
    return {"real": asyncio.new_event_loop}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., ControlPlane]]:
    """Starts a control plane; keywords are fields of ApiLimits."""
    started: list[ControlPlane] = []

    def start(**limits: float) -> ControlPlane:
        path = tmp_path / f"c{len(started)}.sock"
        started.append(ControlPlane(path, limits=ApiLimits(**limits)))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for plane in started:
        plane.stop()


@pytest.fixture
def plane(serve: Callable[..., ControlPlane]) -> ControlPlane:
    return serve()
