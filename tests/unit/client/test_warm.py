"""Connections opened before they are needed.

A controller that is not there is an error like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.client.http import Http
from duplexd.config.groups_file import ControllerEntry
from duplexd.errors import UnreachableError

if TYPE_CHECKING:
    from pathlib import Path


async def test_controller_that_does_not_answer_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="alpha: no daemon answers at"):
        await Http("alpha", ControllerEntry(socket=tmp_path / "none.sock")).warm(2)
