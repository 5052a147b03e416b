"""A socket or url that leads to another controller is noticed, also for targets on one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from duplexd.errors import ConfigurationError
from tests.support.fake_member import problem
from tests.unit.client.members import members

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from duplexd.client import Client

COMMANDS: dict[str, Callable[[Client], Any]] = {
    "status": lambda client: client.status("beta:data"),
    "suspend": lambda client: client.suspend("beta:data"),
    "resync": lambda client: client.resync("beta:data"),
    "resync --wait": lambda client: client.resync("beta:data", wait=True),
    "verify": lambda client: client.verify("beta:data"),
    "cuts": lambda client: client.cuts("beta:data"),
    "settle": lambda client: client.settle("beta:data"),
    "release": lambda client: client.release("beta:data"),
}
SURVEY = {"healthz", "status"}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("knows_the_volume", [True, False])
async def test_nothing_is_done_on_another_controller(
    tmp_path: Path, command: str, knows_the_volume: bool
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):
        beta.controller["name"] = "gamma"
        if not knows_the_volume:

            async def only_for_all() -> tuple[int, Any] | None:
                return (
                    problem(404, 3, "no volume 'data'") if beta.asked.count("status") == 1 else None
                )

            beta.plant["status"] = only_for_all
        with pytest.raises(ConfigurationError, match=r"controllers\.beta .* calls itself 'gamma'"):
            await COMMANDS[command](client)
        assert set(beta.asked) <= SURVEY
