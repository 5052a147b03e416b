"""Cuts that a coordinator left undecided, and commands that touch no cut."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.client import Client, ControllerEntry, GroupEntry, Groups
from duplexd.errors import ConfigurationError, UndecidedError, UnreachableError
from duplexd.limits import ClientLimits
from tests.support.fake_member import HANG_UP, FakeMember, problem
from tests.unit.client.members import CUT, after, left, members, states

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("before", "verdict"),
    [
        (("ready", "ready"), "consistent"),
        (("ready", "consistent"), "consistent"),
        (("ready", ""), "void"),
        (("ready", "void"), "void"),
        (
            ("consistent", "void"),
            "void",
        ),  # a secondary failed, or a canary's grade reached one only
    ],
)
async def test_the_outcome_follows_from_what_the_members_know(
    tmp_path: Path, before: tuple[str, str], verdict: str
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, *before)
        (cut,) = (await client.settle("db")).cuts
        assert (cut.cut, cut.verdict, cut.untold) == (CUT, verdict, [])
        assert states(controllers) == [verdict, verdict]


async def test_a_member_that_is_still_bringing_its_secondaries_there_is_waited_for_however_long(
    tmp_path: Path,
) -> None:
    async with members(tmp_path, "alpha", "beta", settle_s=0.1) as (client, controllers):
        left(controllers, "ready", "cut")
        asyncio.get_running_loop().call_later(0.6, controllers[1].states.update, {CUT: "ready"})
        (cut,) = (await client.settle("db")).cuts
        assert cut.verdict == "consistent"


async def test_where_one_is_void_the_others_are_not_waited_for(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, "void", "cut")
        (cut,) = (await client.settle("db")).cuts
        assert (cut.verdict, states(controllers)) == ("void", ["void", "void"])


async def test_a_member_whose_journal_failed_before_it_was_ready_is_not_waited_for(
    tmp_path: Path,
) -> None:
    async with members(tmp_path, "alpha", "beta", settle_s=0.1) as (client, controllers):
        left(controllers, "ready", "cut")
        controllers[1].controller["failed"] = "the journal could not be synced"
        controllers[1].plant["abort"] = problem(500, 1, "the journal could not be synced")
        with pytest.raises(
            UndecidedError, match="until beta can be asked: beta: the journal could not be synced"
        ):
            await client.settle("db")


@pytest.mark.parametrize(
    ("command", "options"), [("suspend", {"allow_existing": True}), ("resync", {})]
)
async def test_suspend_and_resync_settle_first(
    tmp_path: Path, command: str, options: dict[str, bool]
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, "ready", "ready")
        for member in controllers:
            member.plant["resync"] = (200, {"volumes": [{"name": "data", "how": "journal"}]})
        await getattr(client, command)("db", **options)
        assert states(controllers) == ["consistent", "consistent"]


async def test_a_promise_that_nobody_can_be_asked_for_stays_open(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta", settle_s=0.2) as (client, controllers):
        left(controllers, "ready", "ready")
        controllers[1].plant |= dict.fromkeys(("status", "show", "abort", "agree"), HANG_UP)
        with pytest.raises(
            UndecidedError, match=f"cut {CUT} was made, but .* until beta can be asked"
        ):
            await client.settle("db")
        assert states(controllers) == ["ready", "ready"]


async def test_a_member_that_the_groups_file_does_not_know_can_not_be_asked(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, "ready", "ready", named=["alpha", "beta", "gamma"])
        with pytest.raises(
            UndecidedError, match="taken together with gamma, which the groups file does not know"
        ):
            await client.settle("db")
        assert states(controllers) == ["ready", "ready"]


@pytest.mark.parametrize("stands", [True, False])
async def test_a_member_that_is_gone_for_good_blocks_its_group_no_longer_than_until_a_resync(
    tmp_path: Path, stands: bool
) -> None:
    """Beta burnt down when all were ready; gamma took its place in the group."""
    async with members(tmp_path, "alpha", "gamma", settle_s=0.1) as (client, (alpha, gamma)):
        left([alpha], "ready", named=["alpha", "beta"])
        for member in (alpha, gamma):
            member.plant["resync"] = (200, {"volumes": [{"name": "data", "how": "journal"}]})
        if stands:
            with pytest.raises(
                UndecidedError,
                match=(
                    r"with beta, which .* or, if that will never be, `duplexctl resync db"
                    r" --wait` gives"
                ),
            ):
                await client.suspend("db")
            (warning,) = (await client.resync("db")).warnings
            assert (
                f"nobody knows whether it is consistent: cut {CUT} was taken together with beta"
                in warning
            )
        alpha.volumes["data"] = "DUPLEX"  # it was resynced
        assert (await client.resync("db")).warnings == []
        with pytest.raises(UndecidedError, match=f"cut {CUT} was taken together with beta"):
            await client.settle("db")
        result = await client.suspend("db")
        assert (result.verdict, alpha.states) == (
            "consistent",
            {CUT: "ready", result.cut: "consistent"},
        )


async def test_one_undecidable_cut_does_not_keep_another_from_being_settled(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta", settle_s=0.1) as (client, controllers):
        left(controllers, "ready", "ready")
        status = controllers[0].status()
        status["volumes"][0]["secondary"]["cut"] |= {"id": "d" * 16, "members": ["alpha", "gone"]}
        controllers[0].plant["status"] = (200, status)
        with pytest.raises(UndecidedError, match=r"d{16} was taken together with gone"):
            await client.settle("db")
        assert states(controllers) == ["consistent", "consistent"]


async def test_nothing_undecided_but_somebody_does_not_answer(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        controllers[1].plant["status"] = HANG_UP
        with pytest.raises(UnreachableError, match="beta"):
            await client.settle("db")


@pytest.mark.parametrize(
    ("command", "target", "error"),
    [
        ("settle", "db", ConfigurationError),
        ("suspend", "db", ConfigurationError),
        ("resync", "db", ConfigurationError),
        ("settle", "alpha:data", UndecidedError),
        ("suspend", "alpha:data", UndecidedError),
        ("resync", "alpha:data", None),
    ],
)
async def test_a_promise_counts_for_nobody_else(
    tmp_path: Path, command: str, target: str, error: type[Exception] | None
) -> None:
    """The address of beta, a reused port of ssh -L say, leads to alpha; beta itself is void."""
    alpha = await FakeMember("alpha", tmp_path / "alpha.sock").start()
    alpha.plant |= {"suspend": problem(409, 5, "not decided"), "resync": (200, {"volumes": []})}
    (tmp_path / "beta.sock").symlink_to(alpha.path)
    groups = Groups(
        controllers={
            name: ControllerEntry(socket=tmp_path / f"{name}.sock") for name in ("alpha", "beta")
        },
        groups={"db": GroupEntry(members=["alpha:data", "beta:data"])},
    )
    left([alpha], "ready", named=["alpha", "beta"])
    async with Client(groups, limits=ClientLimits(settle_seconds=0.2)) as client:
        call = getattr(client, command)(target)
        if error is None:
            assert "controllers.beta of the groups file leads to" in (await call).warnings[0]
        else:
            with pytest.raises(
                error,
                match=(
                    r"same controller|controllers\.beta of the groups file leads to .*"
                    r" itself 'alpha'"
                ),
            ):
                await call
    await alpha.stop()
    assert states([alpha]) == ["ready"]


async def test_what_another_controller_says_is_not_the_members_word(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta", settle_s=0.2) as (client, controllers):
        left(controllers, "void", "ready")
        controllers[0].plant["status"] = (200, controllers[0].status())
        controllers[1].plant["status"] = (200, controllers[1].status())
        for member in controllers:
            member.name = "alpha"  # the tunnel was opened anew
        (cut,) = (await client.settle("db")).cuts
        assert (cut.verdict, cut.untold) == ("void", ["beta"])


@pytest.mark.parametrize(("what", "verdict"), [("cut", "void"), ("open", "consistent")])
async def test_an_answer_of_another_controller_is_none_and_the_member_is_asked_again(
    tmp_path: Path, what: str, verdict: str
) -> None:
    async with members(tmp_path, "alpha", "beta", settle_s=0.2) as (client, (alpha, beta)):
        beta.plant[what] = after(lambda: setattr(beta, "name", "alpha"))
        beta.plant["abort"] = after(lambda: setattr(beta, "name", "beta"))
        result = await client.suspend("db")
        assert result.verdict == verdict
        assert "abort" in beta.asked
        assert alpha.states == beta.states == {result.cut: verdict}


async def test_settle_tells_the_one_that_still_calls_it_consistent(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, "void", "consistent")
        alpha = controllers[0]
        alpha.volumes = dict.fromkeys(
            alpha.volumes, "DUPLEX"
        )  # its secondary failed, was replaced, and follows
        (cut,) = (await client.settle("db")).cuts
        assert (cut.cut, cut.verdict) == (CUT, "void")
        assert states(controllers) == ["void", "void"]


async def test_a_cut_that_some_have_left_stays_what_it_is(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, "consistent", "consistent")
        alpha = controllers[0]
        alpha.volumes = dict.fromkeys(alpha.volumes, "DUPLEX")
        assert (await client.settle("db")).cuts == []
        assert states(controllers) == ["consistent", "consistent"]


async def test_one_that_a_member_has_forgotten_stays_what_it_is(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        left(controllers, "", "consistent")
        assert (await client.settle("db")).cuts == []
        assert states(controllers) == ["", "consistent"]
