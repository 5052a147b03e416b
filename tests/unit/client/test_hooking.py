"""Hooks of the groups file: when the coordinator says that a cut is made, and what it trusts.

The programs run in threads, which these loops do not wait for: tests/system/test_hooks.py has them.
"""

from __future__ import annotations

import asyncio
import fcntl
from typing import TYPE_CHECKING

import pytest

from duplexd.client import Client, hooking
from duplexd.client.coordinator import Drive
from duplexd.client.member import Plan
from duplexd.config.groups import Group
from duplexd.errors import ConfigurationError, UnreachableError, UsageError, WrongStateError
from duplexd.runtime.hooks import GroupHooks
from tests.support.fake_member import SILENT
from tests.unit.client.members import CUT, members, until

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.client.results import Suspended


def drive_of(client: Client, made: list[str]) -> Drive:
    group = client.groups.resolve(["db"])
    return Drive(
        Plan(CUT, group, hold_max_s=2.0, on_made=made.append), client.links_to(group.members)
    )


async def test_a_cut_is_made_when_the_last_member_has_made_it(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        made: list[str] = []
        drive = drive_of(client, made)
        beta.plant["cut"] = SILENT
        await drive.close()
        cutting = asyncio.ensure_future(drive.cut(""))
        await until(lambda: "cut" in beta.asked and list(alpha.states.values()) == ["cut"])
        assert made == []
        await drive.give_up("enough")
        await cutting
        await drive.end()
    assert made == []


async def test_a_cut_is_made_before_the_secondaries_are_durable(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):
        made: list[str] = []
        drive = drive_of(client, made)
        beta.plant["open"] = SILENT
        await drive.close()
        cutting = asyncio.ensure_future(drive.cut(""))
        await until(lambda: "open" in beta.asked)
        assert made == [CUT]
        await drive.give_up("enough")
        await cutting
        await drive.end()
    assert made == [CUT]


async def test_one_controller_says_when_its_cut_is_made(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        made: list[str] = []
        drive = drive_of(client, made)
        await drive.cut("")
        await drive.end()
        assert drive.made["alpha"]["cut"] == made[0]
        assert alpha.bodies["suspend"]["progress"] is True


async def test_one_controller_that_breaks_off_leaves_the_outcome_open(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        alpha.plant["suspend"] = 200, {"event": "other"}
        drive = drive_of(client, [])
        with pytest.raises(UnreachableError):
            await drive.cut("")
        await drive.end()
        assert not drive.nothing_cut


async def test_a_hold_excludes_hooks() -> None:
    hooks = (GroupHooks("db", ("/bin/true",)),)
    plan = Plan(CUT, Group("db", {"alpha": ("data",)}, hooks=hooks), lease="lease")

    async def never() -> Suspended:
        raise AssertionError("it must not be cut")

    with pytest.raises(UsageError, match="group 'db' has hooks"):
        await hooking.around(plan, never)


def test_a_file_that_every_user_can_write_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "groups.toml"
    path.touch(0o666)
    path.chmod(0o666)
    with (
        pytest.raises(ConfigurationError, match="every user can write"),
        hooking.locked(str(path)),
    ):
        raise AssertionError("it must not be trusted")


def test_a_file_of_another_user_is_not_trusted() -> None:
    with pytest.raises(ConfigurationError, match="belongs to user 1234"):
        hooking.check_trusted("groups.toml", 0o644, 1234, 0)


def test_hooks_of_one_file_run_once_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "groups.toml"
    path.touch(0o644)
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(WrongStateError, match="another suspend"), hooking.locked(str(path)):
            raise AssertionError("it is locked")
    with hooking.locked(str(path)):
        pass
