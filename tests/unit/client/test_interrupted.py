"""A suspend that is cancelled.

Its `on_cut` learns what became of the cut, if there is one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.client.results import Suspended
from tests.support.fake_member import HANG_UP, SILENT
from tests.unit.client.members import Told, members, until

if TYPE_CHECKING:
    from pathlib import Path


async def test_before_any_cut_there_is_nothing_to_tell(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):
        beta.plant["quiesce"] = SILENT
        suspend = Told(client)
        await until(lambda: "quiesce" in beta.asked)
        await suspend.cancel()
    assert suspend.told == []


async def test_a_cut_that_nobody_has_made_by_then_is_nothing_to_tell(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        alpha.plant["cut"] = beta.plant["cut"] = SILENT
        suspend = Told(client)
        await until(lambda: "cut" in alpha.asked and "cut" in beta.asked)
        await suspend.cancel()
        assert set(alpha.volumes.values()) | set(beta.volumes.values()) == {"DUPLEX"}
    assert suspend.told == []


@pytest.mark.parametrize(
    ("what", "made"), [("cut", {"alpha": 5}), ("open", {"alpha": 5, "beta": 5})]
)
async def test_a_cut_that_was_made_is_void_and_reported(
    tmp_path: Path, what: str, made: dict[str, int]
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (alpha, beta)):
        beta.plant[what] = SILENT
        suspend = Told(client)
        await until(
            lambda: (
                what in beta.asked
                and list(alpha.states.values()) == ["cut" if what == "cut" else "ready"]
            )
        )
        await asyncio.sleep(0.1)  # the answer is there
        await suspend.cancel()
        assert set(alpha.volumes.values()) == {"SUSPENDED"}
    found = suspend.result
    assert (found.verdict, found.controllers, found.why, found.tag) == (
        "void",
        made,
        "the command was interrupted",
        "nightly",
    )


async def test_a_cut_that_all_have_promised_is_consistent_and_reported(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):
        beta.plant["agree"] = SILENT
        suspend = Told(client)
        await until(lambda: "agree" in beta.asked)
        await suspend.cancel()
    found = suspend.result
    assert (found.verdict, found.untold, [made["controller"] for made in found.members]) == (
        "consistent",
        ["beta"],
        ["alpha", "beta"],
    )


async def test_a_cut_of_which_it_is_not_known_is_reported_as_that(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):

        async def answer_and_die() -> str:
            beta.end("suspended")
            beta.states[beta.cut] = "ready"
            beta.plant |= dict.fromkeys(
                ("abort", "agree", "refuse", "show", "status", "healthz"), HANG_UP
            )
            return HANG_UP

        beta.plant["open"] = answer_and_die
        suspend = Told(client)
        await until(lambda: "abort" in beta.asked)
        await suspend.cancel()
    assert "was made, but whether it is consistent can't be known until" in str(suspend.undecided)
    assert "duplexctl settle db" in str(suspend.undecided)


async def test_who_does_not_wait_for_the_end_of_that_is_reported_too(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):
        beta.plant["open"] = beta.plant["abort"] = SILENT
        suspend = Told(client)
        await until(lambda: "open" in beta.asked)
        suspend.task.cancel()
        await until(lambda: "abort" in beta.asked)
        await suspend.cancel()
    assert "duplexctl settle db" in str(suspend.undecided)


async def test_the_result_is_reported_before_anything_else_can_be_interrupted(
    tmp_path: Path,
) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, _):
        told: list[object] = []

        def interrupt(found: object) -> None:
            told.append(found)
            task.cancel()

        task = asyncio.create_task(client.suspend("db", on_cut=interrupt))
        with pytest.raises(asyncio.CancelledError):
            await task
    (found,) = told
    assert isinstance(found, Suspended)
    assert found.verdict == "consistent"


@pytest.mark.parametrize("what", ["status", "quiesce", "cut"])
async def test_out_of_time_it_is_known_who_has_not_answered(tmp_path: Path, what: str) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):
        beta.plant[what] = beta.plant["healthz"] = beta.plant["release"] = beta.plant["abort"] = (
            SILENT
        )
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await client.suspend("db")
        assert client.silent == ["beta"]
        beta.plant.clear()
        await client.status()
        assert client.silent == []
