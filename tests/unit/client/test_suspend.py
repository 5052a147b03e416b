"""A cut over several controllers, and everything that may go wrong in each phase."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import (
    ConfigurationError,
    DuplexdError,
    LeaseLostError,
    NotFoundError,
    TimedOutError,
    UndecidedError,
    UnreachableError,
    UsageError,
    WrongStateError,
)
from tests.unit.client.members import HANG_UP, SILENT, FakeMember, after, members, problem, until

if TYPE_CHECKING:
    from pathlib import Path

PHASES = ["quiesce", "cut", "open", "agree"]


def phases(member: FakeMember) -> list[str]:
    return [what for what in member.asked if what not in {"status", "healthz", "rehearsal"}]


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
            "lease": "L",
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
        first = await client.suspend("db")
        again = await client.suspend("db")
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
    assert result.why.startswith("beta:data stood at the cut, and left it")


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


async def test_a_member_that_can_not_be_told_is_named(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):
        beta.plant["agree"] = HANG_UP
        result = await client.suspend("db")
        assert (result.verdict, result.untold) == ("consistent", ["beta"])
        assert beta.asked.count("agree") > 1
        beta.plant.clear()
        again = await client.suspend("db")  # settles it first
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


# --------------------------------------------------------------------------------------------------- refused before any gate closes


async def refused(
    tmp_path: Path,
    kind: type[DuplexdError],
    match: str,
    plant: object,
    hold_max: float | None = None,
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        plant(*controllers)  # type: ignore[operator]
        with pytest.raises(kind, match=match):
            await client.suspend("db", hold_max=hold_max)
        assert not any(phases(member) for member in controllers)


async def test_mixed_versions_are_named(tmp_path: Path) -> None:
    def old(alpha: FakeMember, beta: FakeMember) -> None:
        beta.controller = {"name": "beta"}

    match = r"alpha: duplexd 0\.1\.0, group protocol 1, beta: duplexd of an old version, no group protocol.*upgrade duplexd on beta"
    await refused(tmp_path, WrongStateError, match, old)


async def test_another_protocol_is_refused(tmp_path: Path) -> None:
    def newer(alpha: FakeMember, beta: FakeMember) -> None:
        beta.controller |= {"group_protocol": 2, "version": "9.0"}

    await refused(
        tmp_path, WrongStateError, r"beta: duplexd 9\.0, group protocol 2.*or duplexctl here", newer
    )


async def test_one_controller_twice_is_refused(tmp_path: Path) -> None:
    def same(alpha: FakeMember, beta: FakeMember) -> None:
        beta.controller |= {"name": "alpha"}

    await refused(
        tmp_path,
        ConfigurationError,
        r"controllers\.beta and controllers\.alpha .* are the same controller, 'alpha'",
        same,
    )


async def test_a_socket_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    def other(alpha: FakeMember, beta: FakeMember) -> None:
        beta.controller |= {"name": "delta"}

    await refused(tmp_path, ConfigurationError, r"controllers\.beta .* calls itself 'delta'", other)


async def test_pairs_that_are_not_duplex_are_named(tmp_path: Path) -> None:
    def suspended(alpha: FakeMember, beta: FakeMember) -> None:
        beta.volumes["data"] = "SUSPENDED"

    await refused(
        tmp_path,
        WrongStateError,
        r"beta:data is SUSPENDED \(by command\); `duplexctl resync",
        suspended,
    )


async def test_an_unknown_volume_is_told_with_its_controller(tmp_path: Path) -> None:
    def unknown(alpha: FakeMember, beta: FakeMember) -> None:
        beta.plant["status"] = problem(404, 3, "no volume or group 'data'")

    await refused(tmp_path, NotFoundError, "beta: no volume or group 'data'", unknown)


async def test_another_suspend_under_way_is_told(tmp_path: Path) -> None:
    def held(alpha: FakeMember, beta: FakeMember) -> None:
        beta.plant["status"] = (
            200,
            beta.status() | {"leases": [{"id": "M", "cut": "0" * 16, "volumes": ["data"]}]},
        )

    await refused(tmp_path, WrongStateError, "another suspend of these volumes is under way", held)


async def test_round_trips_that_do_not_fit_are_refused_with_their_measure(tmp_path: Path) -> None:
    async def slow() -> None:
        await asyncio.sleep(0.1)

    def plant(alpha: FakeMember, beta: FakeMember) -> None:
        beta.plant["healthz"] = slow

    await refused(
        tmp_path,
        TimedOutError,
        r"may wait 0\.2 s \(hold_max\), but 3 round trips .* take 0\.[3-9].* s, beta being",
        plant,
        0.2,
    )


@pytest.mark.parametrize("seconds", [0, -1, 10.1, float("nan")])
async def test_a_hold_of_no_or_too_much_time_is_refused(tmp_path: Path, seconds: float) -> None:
    await refused(tmp_path, UsageError, "hold_max", lambda *_: None, seconds)


async def test_one_controller_down(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        await beta.stop()
        beta.path.unlink()
        with pytest.raises(
            UnreachableError, match=r"^nothing was suspended: beta: no daemon answers at"
        ):
            await client.suspend("db")
        with pytest.raises(UnreachableError, match=r"^nothing was suspended: beta: "):
            await client.suspend("beta:data")
        with pytest.raises(UnreachableError, match=r"^nothing was suspended: beta: "):
            async with client.quiesce("db"):
                raise AssertionError("held")
        assert phases(alpha) == []
        status = await client.status("db")
        assert (list(status.unreachable), [group.state for group in status.groups]) == (
            ["beta"],
            ["UNKNOWN"],
        )


@pytest.mark.parametrize("what", ["status", "healthz", "release"])
async def test_one_controller_that_hangs_before_anything_is_closed(
    tmp_path: Path, what: str
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        beta.plant[what] = SILENT
        with pytest.raises(
            TimedOutError,
            match=r"^nothing was suspended: beta: no answer within [0-9]+ s at [^;]*$",
        ):
            await client.suspend("db")
        assert phases(alpha) == []


async def test_unknown_groups_and_controllers(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, _):
        with pytest.raises(
            NotFoundError, match="no group 'dbs' in the groups file; did you mean 'db'"
        ):
            await client.suspend("dbs")
        with pytest.raises(
            NotFoundError, match="no controller 'alfa' in the groups file; did you mean 'alpha'"
        ):
            await client.suspend("alfa:data")
        with pytest.raises(UsageError, match="at least one"):
            await client.suspend()


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


async def test_a_controller_alone_that_refuses_is_asked_why_and_once_more(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha") as (client, controllers):
        controllers[0].plant["suspend"] = problem(409, 5, "they stand at a cut that is not decided")
        with pytest.raises(WrongStateError, match="not decided"):
            await client.suspend("db")
    assert controllers[0].asked == ["healthz", "suspend", "status", "suspend"]


BAD_TAGS = {"too long": "x" * 201, "no UTF-8": "\udcff"}


@pytest.mark.parametrize("tag", BAD_TAGS.values(), ids=BAD_TAGS)
async def test_a_tag_that_no_controller_would_take_is_refused_before_anything_is_asked(
    tmp_path: Path, tag: str
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        for targets in (["db"], ["alpha:data"]):
            with pytest.raises(UsageError, match="tag"):
                await client.suspend(*targets, tag=tag)
        assert [member.asked for member in controllers] == [[], []]


@pytest.mark.parametrize("tag", BAD_TAGS.values(), ids=BAD_TAGS)
async def test_a_hold_survives_such_a_tag(tmp_path: Path, tag: str) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        async with client.quiesce("db") as hold:
            with pytest.raises(UsageError, match="tag"):
                await hold.suspend(tag)
            assert all(member.held for member in controllers)
            result = await hold.suspend("x" * 200)
        assert result.verdict == "consistent"
