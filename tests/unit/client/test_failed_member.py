"""A controller that takes no changes any more can't make a cut: to begin one would only make it void on the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.errors import WrongStateError
from tests.unit.client.members import members

if TYPE_CHECKING:
    from pathlib import Path

WHY = "beta: takes no changes any more: the journal could not be synced; restart it"


async def test_no_gate_is_closed(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        controllers[1].controller["failed"] = "the journal could not be synced"
        with pytest.raises(WrongStateError, match=WHY):
            await client.suspend("db")
        with pytest.raises(WrongStateError, match=WHY):
            async with client.quiesce("db"):
                raise AssertionError
        assert not any("quiesce" in member.asked for member in controllers)
