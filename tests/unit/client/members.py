"""Groups of fake members (tests/support/fake_member.py), and what tests ask of them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from duplexd.client import Client, ControllerEntry, GroupEntry, Groups
from duplexd.client.results import Suspended
from duplexd.errors import UndecidedError
from duplexd.limits import ClientLimits
from tests.support.fake_member import FakeMember

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

CUT = "c" * 16


def groups_of(*members: FakeMember, hold_max: float = 2.0) -> Groups:
    """All of them in a group `db`."""
    return Groups(
        controllers={member.name: ControllerEntry(socket=member.path) for member in members},
        groups={
            "db": GroupEntry(
                members=[
                    f"{member.name}:{volume}" for member in members for volume in member.volumes
                ],
                hold_max=hold_max,
            )
        },
    )


@asynccontextmanager
async def members(
    directory: Path, *names: str, hold_max: float = 2.0, settle_s: float = 0.5, **limits: float
) -> AsyncIterator[tuple[Client, list[FakeMember]]]:
    """A client, and that many controllers."""
    found = [await FakeMember(name, directory / f"{name}.sock").start() for name in names]
    try:
        small = replace(ClientLimits(), settle_seconds=settle_s, **limits)  # type: ignore[arg-type]
        async with Client(groups_of(*found, hold_max=hold_max), limits=small) as client:
            yield client, found
    finally:
        for member in found:
            await member.stop()


async def until(true: Callable[[], object]) -> None:
    """Return when it is so."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - what it waits for is not a task
            await asyncio.sleep(0.001)


def after(act: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    """To plant: do something, then answer as usual."""

    async def planted() -> None:
        act()
        await asyncio.sleep(0)

    return planted


def phases(member: FakeMember) -> list[str]:
    return [what for what in member.asked if what not in {"status", "healthz", "rehearsal"}]


def left(controllers: list[FakeMember], *states: str, named: list[str] | None = None) -> None:
    """A coordinator was killed when the members were in these states."""
    for member, state in zip(controllers, states, strict=True):
        if state:
            everyone = named or [each.name for each in controllers]
            member.engine.cuts.remember(CUT, state, everyone)


def states(controllers: list[FakeMember]) -> list[str]:
    return [member.states.get(CUT, "") for member in controllers]


class Told:
    """A suspend in a task, and what `on_cut` got."""

    def __init__(self, client: Client) -> None:
        self.told: list[Suspended | UndecidedError] = []
        self.task: asyncio.Task[Suspended] = asyncio.create_task(
            client.suspend("db", tag="nightly", on_cut=self.told.append)
        )

    async def cancel(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task

    @property
    def result(self) -> Suspended:
        (found,) = self.told
        assert isinstance(found, Suspended)
        return found

    @property
    def undecided(self) -> UndecidedError:
        (found,) = self.told
        assert isinstance(found, UndecidedError)
        return found
