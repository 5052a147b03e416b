"""One controller needs one request for a cut: its journal orders everything."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.client import Client
from duplexd.errors import LeaseLostError, UsageError, WrongStateError
from tests.support.fake_member import HANG_UP, SILENT, FakeMember, problem
from tests.unit.client.members import CUT, Told, left, members, until

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_suspend_of_one_controller_asks_for_its_name_only(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        answer = {
            "verdict": "consistent",
            "cut": "0123456789abcdef",
            "controllers": {"alpha": 5},
            "volumes": ["data"],
            "hold": None,
        }
        alpha.plant["suspend"] = (200, answer)
        assert (await client.suspend("db")).verdict == "consistent"
        assert alpha.asked == ["healthz", "suspend"]
        alpha.asked.clear()
        alpha.plant["healthz"] = (
            200,
            {"status": "ok"},
        )  # of a version that says its name in its status only
        await client.suspend("db")
        assert alpha.asked == ["healthz", "status", "suspend"]


async def test_a_controller_alone_that_refuses_is_asked_why_and_once_more(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha") as (client, controllers):
        controllers[0].plant["suspend"] = problem(409, 5, "they are at a cut in doubt")
        with pytest.raises(WrongStateError, match="in doubt"):
            await client.suspend("db")
    assert controllers[0].asked == ["healthz", "suspend", "status", "suspend"]


async def test_a_controller_alone_says_why(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        answer = {
            "verdict": "void",
            "cut": "0123456789abcdef",
            "tag": "",
            "controllers": {"alpha": 5},
            "volumes": ["data"],
            "hold": None,
        }
        alpha.plant["suspend"] = 200, answer | {"why": "/b/data.img: Input/output error"}
        assert (await client.suspend("db")).why == f"alpha: {'/b/data.img: Input/output error'}"
        alpha.plant["suspend"] = 200, answer
        assert (await client.suspend("db")).why == "alpha: see its events and its log"


async def test_one_controller_by_its_socket(tmp_path: Path) -> None:
    member = await FakeMember("alpha", tmp_path / "a.sock").start()
    async with Client.local(tmp_path / "a.sock") as client:
        status = await client.status("data")
        assert (list(status.controllers), status.volumes[0]["name"]) == (["alpha"], "data")
        assert (await client.status("local:data")).controllers == status.controllers
        member.plant["suspend"] = (
            200,
            {
                "verdict": "consistent",
                "cut": CUT,
                "controllers": {"alpha": 5},
                "volumes": ["data"],
                "hold": None,
            },
        )
        result = await client.suspend("data")
        assert (result.controllers, result.volumes, result.phases) == (
            {"alpha": 5},
            ["data"],
            {},
        )
        assert member.bodies["suspend"] == {"targets": ["data"], "tag": "", "certificate": False}
    await member.stop()


@pytest.mark.parametrize("state", ["consistent", "void"])
async def test_one_controller_by_its_socket_says_itself_what_became_of_a_groups_cut(
    tmp_path: Path, state: str
) -> None:
    async with members(tmp_path, "alpha", "beta") as (_, controllers):
        left(controllers, state, state)
        alpha = controllers[0]
        alpha.plant["cuts"] = (200, {"cuts": [alpha.engine.cuts.show(CUT)]})
        async with Client.local(alpha.path) as client:
            (cut,) = (await client.cuts()).cuts
        assert (cut.verdict, cut.states, list(cut.controllers)) == (
            state,
            {"alpha": state, "beta": None},
            ["alpha"],
        )


# ----------------------------------------------------------------------------------------- holds


async def test_a_hold_of_one_controller_is_its_lease_and_not_for_a_cut(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        async with client.quiesce("db") as hold:
            assert (alpha.held, hold.cut) == (True, "L1")
            assert alpha.bodies["quiesce"] == {"targets": ["data"], "hold_s": 2.0}
            assert hold.json()["volumes"] == ["alpha:data"]
        assert (alpha.held, hold.reason) == (False, "released")
    assert alpha.asked == ["healthz", "quiesce", "unlease"]


async def test_a_suspend_under_a_hold_of_one_controller_names_lease_and_fence(
    tmp_path: Path,
) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        alpha.plant["suspend"] = (200, ALONE)
        async with client.quiesce("db") as hold:
            result = await hold.suspend(tag="nightly")
        assert result.verdict == "consistent"
    assert alpha.bodies["suspend"] == {
        "targets": ["data"],
        "tag": "nightly",
        "certificate": False,
        "lease": "L1",
        "fence": 7,
    }


async def test_a_suspend_by_another_command_under_the_lease_is_not_a_loss(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        used = asyncio.Event()
        async with client.quiesce("db", on_suspended=used.set) as hold:
            alpha.end("suspended")
            await used.wait()
            assert hold.remaining_s == 0
        assert (hold.reason, hold.by_another) == ("suspended", False)


async def test_a_suspend_of_which_the_release_learns_first_is_not_a_loss_either(
    tmp_path: Path,
) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        async with client.quiesce("db") as hold:
            alpha.end("suspended")
        assert hold.reason == "suspended"


@pytest.mark.parametrize("reason", ["deadline", "stopping", "released", HANG_UP])
@pytest.mark.parametrize("noticed", [True, False])
async def test_every_other_end_is_a_loss(tmp_path: Path, reason: str, noticed: bool) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        hold = client.quiesce("db")

        async def work() -> None:
            async with hold:
                alpha.end(reason)
                if noticed:
                    await asyncio.sleep(60)

        with pytest.raises(LeaseLostError, match=r"^the hold of db was lost: "):
            await work()
        assert hold.by_another is (reason == "released")


async def test_a_daemon_that_does_not_say_how_its_hold_ended_has_lost_it(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", release_seconds_max=0.1) as (client, (alpha,)):
        alpha.plant["unlease"] = SILENT
        with pytest.raises(LeaseLostError, match="no answer to its release"):
            async with client.quiesce("db"):
                pass


async def test_a_hold_of_a_group_on_one_controller_is_released_by_its_name(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        lease = {"id": "L1", "volumes": ["data"], "cut": None}
        alpha.plant["status"] = (200, alpha.status() | {"leases": [lease]})

        async def work() -> None:
            async with client.quiesce("db"):
                assert (await client.release("db")).leases == {"L1": True}
                await asyncio.sleep(60)

        with pytest.raises(LeaseLostError, match="released by somebody else"):
            await work()


async def test_a_lease_that_was_given_is_cut_under(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, _)):
        alpha.plant["suspend"] = (200, ALONE)
        await client.suspend("alpha:data", lease="L9")
        assert alpha.bodies["suspend"]["lease"] == "L9"
        with pytest.raises(UsageError, match="its own `suspend`"):
            await client.suspend("db", lease="L9")


# -------------------------------------------------------------------------------------- interrupted


ALONE = {
    "verdict": "consistent",
    "cut": "0123456789abcdef",
    "controllers": {"alpha": 5},
    "volumes": ["data"],
}


def slow(alpha: FakeMember, answer: Any) -> asyncio.Event:
    """Its suspend is answered once the event is set."""
    gate = asyncio.Event()

    async def planted() -> Any:
        await gate.wait()
        return answer

    alpha.plant["suspend"] = planted
    return gate


async def test_the_answer_of_one_controller_is_waited_for(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        gate = slow(alpha, (200, ALONE))
        suspend = Told(client)
        await until(lambda: "suspend" in alpha.asked)
        asyncio.get_running_loop().call_later(1.0, gate.set)
        await suspend.cancel()
    assert (suspend.result.verdict, suspend.result.volumes) == ("consistent", ["alpha:data"])


@pytest.mark.parametrize("answer", [None, HANG_UP])
async def test_but_not_for_ever(tmp_path: Path, answer: str | None) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        gate = slow(alpha, answer)
        suspend = Told(client)
        await until(lambda: "suspend" in alpha.asked)
        if answer is not None:
            asyncio.get_running_loop().call_later(1.0, gate.set)
        await suspend.cancel()
    assert "db may be suspended nevertheless: `duplexctl status db`" in str(suspend.undecided)


async def test_one_controller_that_falls_silent_is_reported_as_not_known(
    tmp_path: Path,
) -> None:
    async with members(tmp_path, "alpha", answer_seconds_max=0.3) as (client, (alpha,)):
        slow(alpha, None)
        suspend = Told(client)
        await until(lambda: "suspend" in alpha.asked)
        alpha.plant["healthz"] = SILENT
        await suspend.cancel()
    assert "db may be suspended nevertheless: `duplexctl status db`" in str(suspend.undecided)


async def test_one_controller_that_refuses_leaves_nothing_to_tell(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        gate = slow(
            alpha,
            (404, {"title": "not found", "status": 404, "detail": "no volume", "exit_code": 3}),
        )
        suspend = Told(client)
        await until(lambda: "suspend" in alpha.asked)
        asyncio.get_running_loop().call_later(1.0, gate.set)
        await suspend.cancel()
    assert suspend.told == []


async def test_who_asked_for_nothing_does_not_wait(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        slow(alpha, None)
        task = asyncio.create_task(client.suspend("db"))
        await until(lambda: "suspend" in alpha.asked)
        began = asyncio.get_running_loop().time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.get_running_loop().time() - began < 1.0
