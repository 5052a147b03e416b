"""A cut over several controllers, and everything that may go wrong in each phase."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.core import cut_states as votes
from duplexd.errors import LeaseLostError, TimedOutError, UndecidedError, WrongStateError
from tests.support.fake_member import HANG_UP, SILENT, problem
from tests.unit.client.members import after, members, phases, until

if TYPE_CHECKING:
    from pathlib import Path

PHASES = ["quiesce", "cut", "open", "agree"]


async def test_one_request_for_each_member_and_phase(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta", "gamma") as (client, controllers):
        result = await client.suspend("db", tag="nightly")
    assert (result.verdict, result.untold, result.left, result.why) == ("consistent", [], [], "")
    assert result.controllers == {"alpha": 5, "beta": 5, "gamma": 5}
    assert result.volumes == ["alpha:data", "beta:data", "gamma:data"]
    assert [made["controller"] for made in result.members] == ["alpha", "beta", "gamma"]
    for member in controllers:
        assert phases(member) == PHASES
        assert member.asked.count("status") == 1
        assert member.states == {result.cut: "consistent"}
        assert member.bodies["cut"] == {
            "lease": "L1",
            "fence": 7,
            "tag": "nightly",
            "group": "db",
            "members": ["alpha", "beta", "gamma"],
        }
        assert member.bodies["quiesce"] == {"targets": ["data"], "hold_s": 2.0, "cut": result.cut}
        assert not member.held
    assert set(result.phases) >= {"closing", "cutting", "opening", "settling"}


async def test_the_connections_are_open_before_the_gates_close(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        counts: list[int] = []
        controllers[0].plant["quiesce"] = after(
            lambda: counts.append(sum(member.connections for member in controllers))
        )
        await client.suspend("db")
        assert counts == [sum(member.connections for member in controllers)]


async def test_how_long_writes_waited_is_merged(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, _):
        hold = (await client.suspend("db")).hold
    assert (hold.seconds_max, hold.writes_held, hold.within_limit, hold.hold_max_s) == (
        0.004,
        4,
        True,
        2.0,
    )
    assert hold.p50_s == pytest.approx(0.004)


async def test_all_at_one_cut_already(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        first = await client.suspend("db", tag="x1")
        with pytest.raises(
            WrongStateError,
            match=rf"already: cut {first.cut} \(tag 'x1', .* old, by command\).*--allow-existing",
        ):
            await client.suspend("db")
        again = await client.suspend("db", allow_existing=True)
        assert (again.already, again.cut, again.verdict) == (True, first.cut, "consistent")
        assert phases(controllers[0]) == PHASES


@pytest.mark.parametrize("what", ["cut", "open"])
@pytest.mark.parametrize(
    "how", [problem(410, 9, "too late"), HANG_UP, (200, b"no JSON"), (500, {"x": 1})]
)
async def test_a_member_that_refuses_or_breaks_off_after_the_first_cut_makes_it_void_everywhere(
    tmp_path: Path, what: str, how: object
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        beta.plant[what] = how
        result = await client.suspend("db")
        assert result.verdict == "void"
        assert result.why.startswith("beta: ")
        assert alpha.states == beta.states == {result.cut: "void"}
        assert not alpha.held
        assert not beta.held


async def test_a_member_that_refuses_to_close_leaves_nothing_held_and_nothing_cut(
    tmp_path: Path,
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        beta.plant["quiesce"] = problem(409, 5, "another suspend of these volumes is under way")
        with pytest.raises(WrongStateError, match="nothing was suspended: beta: another suspend"):
            await client.suspend("db")
        assert phases(alpha) == ["quiesce", "release"]
        assert not alpha.held
        assert alpha.states == beta.states == {}


async def test_a_hold_that_is_lost_between_close_and_cut_is_void_everywhere(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        alpha.plant["cut"] = after(lambda: beta.end("deadline"))
        beta.plant["cut"] = after(lambda: beta.end("deadline"))
        result = await client.suspend("db")
        assert result.verdict == "void"
        assert set(alpha.states.values()) | set(beta.states.values()) == {"void"}


async def test_a_secondary_that_was_resynced_between_ready_and_agree_is_not_passed_off_as_readable(
    tmp_path: Path,
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):
        beta.plant["agree"] = after(lambda: beta.volumes.update(data="DUPLEX"))
        result = await client.suspend("db")
    assert (result.verdict, result.left) == ("consistent", ["beta:data"])
    assert result.why.startswith("beta:data: reached the cut, but left it")


async def test_a_void_cut_leaves_nothing_to_be_left(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):
        beta.plant["open"] = problem(410, 9, "too late")
        beta.plant["abort"] = after(lambda: beta.volumes.update(data="DUPLEX"))
        result = await client.suspend("db")
    assert (result.verdict, result.left, result.why) == ("void", [], "beta: too late")


async def test_a_member_that_goes_silent_with_its_promise_given_leaves_the_outcome_open(
    tmp_path: Path,
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):

        async def answer_and_die() -> str:
            beta.end("suspended")
            beta.states[beta.cut] = "ready"
            beta.plant |= dict.fromkeys(
                ("abort", "agree", "refuse", "show", "status", "healthz"), HANG_UP
            )
            return HANG_UP

        beta.plant["open"] = answer_and_die
        with pytest.raises(
            UndecidedError, match=r"can't be known until beta can be asked.*duplexctl settle db"
        ):
            await client.suspend("db")
        assert list(alpha.states.values()) == ["ready"]
        # it is back
        beta.plant.clear()
        settled = await client.settle("db")
        assert [cut.verdict for cut in settled.cuts] == ["consistent"]
        assert set(alpha.states.values()) | set(beta.states.values()) == {"consistent"}
        assert (await client.settle("db")).cuts == []


async def test_a_member_that_does_not_get_the_outcome_is_named(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):
        beta.plant["agree"] = HANG_UP
        result = await client.suspend("db")
        assert (result.verdict, result.untold) == ("consistent", ["beta"])
        assert beta.asked.count("agree") > 1
        beta.plant.clear()
        again = await client.suspend("db", allow_existing=True)  # settles it first
        assert (again.already, again.cut) == (True, result.cut)
        assert list(beta.states.values()) == ["consistent"]


@pytest.mark.usefixtures("unmeasured")
async def test_a_group_that_is_held_too_long_is_given_up_before_its_leases_end(
    tmp_path: Path,
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        beta.plant["quiesce"] = SILENT
        with pytest.raises(
            TimedOutError,
            match=r"after [0-9.]+ s the gates had been closed.*closing, no answer from beta",
        ):
            await client.suspend("db", hold_max=0.2)
        assert not alpha.held
        assert alpha.states == {}


@pytest.mark.usefixtures("unmeasured")
async def test_a_cut_that_takes_too_long_is_void(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        beta.plant["cut"] = SILENT
        result = await client.suspend("db", hold_max=1.0)
        assert result.verdict == "void"
        assert alpha.states == beta.states == {result.cut: "void"}


async def test_interrupted_it_leaves_no_gate_closed(tmp_path: Path) -> None:
    for what in ("quiesce", "cut", "open"):
        async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
            beta.plant[what] = SILENT
            task = asyncio.create_task(client.suspend("db"))
            await until(lambda: what in beta.asked)  # noqa: B023
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not alpha.held
            assert not beta.held
            assert set(alpha.states.values()) <= {"void"}, what
        (tmp_path / "alpha.sock").unlink()
        (tmp_path / "beta.sock").unlink()


async def test_a_void_outcome_of_a_lost_lease_is_an_error_before_the_cut(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        alpha.plant["quiesce"] = SILENT
        task = asyncio.create_task(client.suspend("db"))
        await until(lambda: beta.held)
        beta.end("deadline")
        with pytest.raises(
            LeaseLostError, match="nothing was suspended: beta: the hold was lost: deadline"
        ):
            await task


WHY = "/b/data.img: Input/output error"


async def test_a_member_that_votes_void_says_why(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):

        async def fails() -> tuple[int, dict[str, Any]]:
            cut = beta.cut
            beta.end("suspended")
            answer = beta.engine.cuts.show(cut)
            beta.states[cut] = votes.VOID
            return 200, answer | {"state": "void", "verdict": "void", "why": WHY}

        beta.plant["open"] = fails
        result = await client.suspend("db")
        assert (result.verdict, result.why) == ("void", f"beta: {WHY}")
