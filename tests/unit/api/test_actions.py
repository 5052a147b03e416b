"""The door into the controller, without a socket in front of it."""

from __future__ import annotations

import asyncio

import pytest

from duplexd.api.access import Peer, Role
from duplexd.api.actions import Actions
from duplexd.api.models.request_model import SwapRequest
from duplexd.errors import ForbiddenError, UsageError, WrongStateError
from duplexd.limits import ApiLimits
from tests.support.fake_controller import FakeController, FakeLease

ROOT = Peer(0, 0, 1, role=Role.OPERATE, owns=True)


class Draining(FakeController):
    """Its holds begin when a test says so: until then writes are in flight."""

    def __init__(self) -> None:
        super().__init__()
        self.drained = asyncio.Event()

    async def quiesce(
        self,
        names: list[str],
        hold_s: float | None,
        owner: str,
        cut_id: str = "",
        mark: bool = False,
    ) -> FakeLease:
        await self.drained.wait()
        return await super().quiesce(names, hold_s, owner, cut_id)


async def test_a_hold_that_begins_while_the_daemon_stops_ends_at_once() -> None:
    controller = Draining()
    actions = Actions(controller, ApiLimits())
    beginning = asyncio.ensure_future(actions.quiesce(ROOT, ["data"], 1.0))
    await asyncio.sleep(0)
    actions.stop()
    controller.drained.set()
    assert await (await beginning).ended == "stopping"


async def test_no_hold_begins_once_the_daemon_stops() -> None:
    actions = Actions(FakeController(), ApiLimits())
    actions.stop()
    with pytest.raises(WrongStateError, match="the daemon is stopping"):
        await actions.quiesce(ROOT, ["data"], 1.0)


async def test_contents_are_those_of_one_volume() -> None:
    actions = Actions(FakeController(), ApiLimits())
    with pytest.raises(UsageError, match="'db' is a group; name a volume"):
        await actions.read_cut("0" * 16, "db", 0, 1)


@pytest.mark.parametrize(
    "peer",
    [
        Peer(1000, 1000, 1, role=Role.OPERATE),
        Peer(name="backup.example", role=Role.OPERATE),
    ],
)
async def test_no_file_is_made_for_who_has_not_the_rights_of_the_daemon(peer: Peer) -> None:
    controller = FakeController()
    controller.volumes["data"] = "SUSPENDED"
    request = SwapRequest(targets=["data"], roll_forward=True, keep_to="/etc/kept")
    with pytest.raises(ForbiddenError, match="only root and the daemon's own user"):
        await Actions(controller, ApiLimits()).swap(peer, request)
    assert (controller.kept_to, controller.swapped) == ([], set())
