"""One look at several controllers, of which one is silent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.client.looking_on import LookingOn
from tests.support.fake_member import SILENT
from tests.unit.client.members import members

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_silent_controller_costs_a_look_its_patience_once(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta", answer_seconds_max=10.0) as (client, both):
        alpha, beta = both
        alpha.plant["metrics"] = (200, b"")  # which it would make in a thread
        for what in ("status", "healthz", "health", "cuts", "metrics"):
            beta.plant[what] = SILENT
        began = asyncio.get_running_loop().time()
        look = await LookingOn(client).look()
        assert asyncio.get_running_loop().time() - began < 11.0
        assert set(look.status["unreachable"]) == {"beta"}
        assert not [each for each in look.missing if "beta" in each]
