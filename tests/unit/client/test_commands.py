"""The commands that cut nothing: resync, verify and the history of cuts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import TimedOutError, UnreachableError, UsageError, WrongStateError
from tests.support.fake_member import HANG_UP, SILENT, problem
from tests.unit.client.members import CUT, left, members

if TYPE_CHECKING:
    from pathlib import Path


async def test_the_history_of_several_controllers(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, "consistent", "ready")
        for member in controllers:
            member.plant["cuts"] = (200, {"cuts": [member.engine.cuts.show(CUT)]})
        (cut,) = (await client.cuts()).cuts
        assert (cut.verdict, cut.states, cut.untold) == (
            "consistent",
            {"alpha": "consistent", "beta": "ready"},
            ["beta"],
        )
        controllers[1].plant["cuts"] = HANG_UP
        found = await client.cuts("db")
        assert (list(found.unreachable), found.cuts[0].states) == (
            ["beta"],
            {"alpha": "consistent", "beta": None},
        )
        controllers[0].plant["cuts"] = HANG_UP
        with pytest.raises(UnreachableError):
            await client.cuts("db")


async def test_resync_and_verify_name_volumes_by_their_controller(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        row = {"name": "data", "state": "DUPLEX", "copied_bytes": 7}
        started = b'{"event":"started","volumes":[{"name":"data","how":"journal"}]}\n'
        alpha.plant["resync"] = (
            200,
            started
            + b'{"event":"done","volumes":[{"name":"data","state":"DUPLEX","copied_bytes":7}]}\n',
        )
        beta.plant["resync"] = (
            200,
            started + b'{"event":"done","volumes":'
            b'[{"name":"data","state":"SUSPENDED","copied_bytes":0}]}\n',
        )
        seen: list[str] = []
        result = await client.resync(
            "db", wait=True, progress=lambda name, line: seen.append(f"{name} {line['event']}")
        )
        assert result.volumes[0] == row | {"name": "alpha:data", "how": "journal"}
        assert (result.ok, sorted(seen)) == (
            False,
            ["alpha done", "alpha started", "beta done", "beta started"],
        )
        for member in (alpha, beta):
            member.plant["verify"] = (
                200,
                b'{"event":"done","volumes":[{"name":"data","equal":true}]}\n',
            )
        assert (await client.verify("db")).volumes == [
            {"name": "alpha:data", "equal": True},
            {"name": "beta:data", "equal": True},
        ]
        beta.plant["verify"] = (
            200,
            b'{"event":"progress","name":"data","done_bytes":0,"total_bytes":1}\n',
        )
        with pytest.raises(UnreachableError, match="beta: broke off before the comparison ended"):
            await client.verify("db")
        beta.plant["resync"] = (200, started)
        with pytest.raises(UnreachableError, match="beta: broke off before the resync ended"):
            await client.resync("db", wait=True)
        beta.plant["verify"] = problem(400, 2, "no")
        with pytest.raises(UsageError, match="beta: no"):
            await client.verify("db")


async def test_a_resync_that_one_controller_refuses_is_begun_by_the_others(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        alpha.plant["resync"] = (
            200,
            {"volumes": [{"name": "data", "how": "journal"}], "refused": []},
        )
        beta.plant["resync"] = problem(409, 5, "data is not served")
        result = await client.resync("db")
        assert (result.ok, [row["name"] for row in result.volumes]) == (False, ["alpha:data"])
        assert result.refused == [{"name": "beta:data", "error": "beta: data is not served"}]
        alpha.plant["resync"] = problem(409, 5, "nor is this")
        with pytest.raises(WrongStateError, match="nor is this"):
            await client.resync("db")


@pytest.mark.parametrize(
    ("command", "options"), [("resync", {}), ("resync", {"wait": True}), ("verify", {})]
)
async def test_a_daemon_that_was_stopped_is_noticed(
    tmp_path: Path, command: str, options: dict[str, bool]
) -> None:
    async with members(tmp_path, "alpha", "beta", answer_seconds_max=0.1) as (
        client,
        (alpha, beta),
    ):
        alpha.plant[command] = (
            200,
            b'{"event":"done","volumes":[]}\n'
            if command == "verify" or options
            else {"volumes": []},
        )
        beta.plant |= {command: SILENT, "healthz": SILENT}
        async with asyncio.timeout(5):
            with pytest.raises(TimedOutError, match=r"beta: no answer within 0\.\d+ s"):
                await getattr(client, command)("db", **options)
