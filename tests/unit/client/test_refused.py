"""What is refused before any gate closes: a cut that is begun in vain makes the others void."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import (
    ConfigurationError,
    DuplexdError,
    NotFoundError,
    TimedOutError,
    UnreachableError,
    UsageError,
    WrongStateError,
)
from tests.support.fake_member import SILENT, FakeMember, problem
from tests.unit.client.members import members, phases

if TYPE_CHECKING:
    from pathlib import Path


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
        for key in ("version", "group_protocol"):
            del beta.controller[key]

    match = (
        r"alpha: duplexd 0\.1\.0, group protocol 1, beta: duplexd of an old version, no"
        r" group protocol.*upgrade duplexd on beta"
    )
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


async def test_an_unknown_volume_is_reported_with_its_controller(tmp_path: Path) -> None:
    def unknown(alpha: FakeMember, beta: FakeMember) -> None:
        beta.plant["status"] = problem(404, 3, "no volume or group 'data'")

    await refused(tmp_path, NotFoundError, "beta: no volume or group 'data'", unknown)


async def test_another_suspend_under_way_is_reported(tmp_path: Path) -> None:
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


WHY = "beta: refuses changes: the journal could not be synced; restart it"


async def test_a_controller_that_takes_no_changes_any_more_is_named(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        controllers[1].controller["failed"] = "the journal could not be synced"
        with pytest.raises(WrongStateError, match=WHY):
            await client.suspend("db")
        with pytest.raises(WrongStateError, match=WHY):
            async with client.quiesce("db"):
                raise AssertionError
        assert not any("quiesce" in member.asked for member in controllers)


async def test_legs_that_are_known_to_differ_refuse_before_any_gate_closes(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, controllers):
        beta = controllers[1]
        found = beta.status()
        found["volumes"][0]["differs"] = {"text": "the legs differ in 1 place"}
        beta.plant["status"] = (200, found)
        with pytest.raises(WrongStateError, match=r"beta:data: the legs differ.*repair beta:data"):
            await client.suspend("db")
        assert [each.asked.count("quiesce") for each in controllers] == [0, 0]
