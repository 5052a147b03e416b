"""A live control socket for each test that asks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.support.control_plane import ControlPlane

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    with capture_logs():  # else they would get between what duplexctl writes to the same stdout
        control = ControlPlane(tmp_path / "c.sock")
        yield control
        control.stop()
