"""Suspends with hooks of the daemon's own groups, and the line that says when a cut is made."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.api.hooked import Hooked
from duplexd.errors import UsageError, WrongStateError
from duplexd.runtime.hooks import GroupHooks, HookError, HookRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from duplexd.json_object import Json
    from tests.support.control_plane import ControlPlane

CUT = "00000000000000aa"
RESULT: Json = {"cut": CUT, "verdict": "consistent"}


class Configured:
    """Hooks by group, and what was heard of them."""

    def __init__(self, *groups: GroupHooks) -> None:
        self._groups = {each.group: each for each in groups}
        self.heard: list[HookRun] = []

    def hooks(self, group: str) -> GroupHooks | None:
        return self._groups.get(group)

    def hook_ended(self, run: HookRun) -> None:
        self.heard.append(run)


def db(before: str = "true", after: str = "true") -> GroupHooks:
    return GroupHooks("db", ("/bin/sh", "-c", before), ("/bin/sh", "-c", after), 600.0)


async def exists(path: Path) -> None:
    while True:
        if path.exists():
            return
        await asyncio.sleep(0.01)


class Engine:
    """Makes a cut at once, and settles it when it is let."""

    def __init__(self) -> None:
        self.settled = asyncio.Event()
        self.cuts = 0

    async def cut(self, made: Callable[[str], object]) -> Json:
        self.cuts += 1
        made(CUT)
        await self.settled.wait()
        return RESULT


def unheard(_cut: str) -> None:
    """Nobody listens."""


def suspend(hooked: Hooked, engine: Engine, lease: str | None = None) -> asyncio.Future[Json]:
    return asyncio.ensure_future(hooked.suspend(["db", "v"], "", lease, engine.cut, unheard))


async def test_the_result_says_what_hooks_did_and_where(tmp_path: Path) -> None:
    configured, engine = Configured(db(after=f"touch {tmp_path}/thawed")), Engine()
    suspending = suspend(Hooked(configured, lambda: "alpha"), engine)
    await exists(tmp_path / "thawed")  # before the secondaries are durable
    assert not suspending.done()
    engine.settled.set()
    result = await suspending
    assert [(run["hook"], run["status"], run["controller"]) for run in result["hooks"]] == [
        ("before_suspend", "ok", "alpha"),
        ("after_suspend", "ok", "alpha"),
    ]
    assert [run.hook for run in configured.heard] == ["before_suspend", "after_suspend"]


async def test_the_hooks_of_a_group_run_once_at_a_time(tmp_path: Path) -> None:
    hooked, engine = Hooked(Configured(db(after=f"touch {tmp_path}/t")), lambda: "alpha"), Engine()
    first = suspend(hooked, engine)
    await exists(tmp_path / "t")
    with pytest.raises(WrongStateError, match="another suspend runs the hooks of group 'db'"):
        await suspend(hooked, engine)
    engine.settled.set()
    await first
    await suspend(hooked, engine)
    assert engine.cuts == 2


async def test_a_lease_excludes_hooks() -> None:
    hooked, engine = Hooked(Configured(db()), lambda: "alpha"), Engine()
    with pytest.raises(UsageError, match="group 'db' has hooks"):
        await suspend(hooked, engine, "lease")
    assert engine.cuts == 0


async def test_a_client_that_goes_away_leaves_a_cut_that_is_settled(tmp_path: Path) -> None:
    hooked, engine = Hooked(Configured(db(after=f"touch {tmp_path}/t")), lambda: "alpha"), Engine()
    suspending = suspend(hooked, engine)
    await exists(tmp_path / "t")
    suspending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await suspending
    engine.settled.set()
    assert hooked._cuts == set() or await asyncio.wait_for(next(iter(hooked._cuts)), 60) == RESULT


async def test_a_client_that_goes_away_in_before_suspend_makes_no_cut(tmp_path: Path) -> None:
    groups = db(f"touch {tmp_path}/frozen; sleep 600", f"touch {tmp_path}/thawed")
    hooked, engine = Hooked(Configured(groups), lambda: "alpha"), Engine()
    suspending = suspend(hooked, engine)
    await exists(tmp_path / "frozen")
    suspending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await suspending
    assert (tmp_path / "thawed").exists()
    assert engine.cuts == 0


async def test_a_stop_waits_for_after_suspend_and_takes_no_more(tmp_path: Path) -> None:
    groups = db(f"touch {tmp_path}/frozen; sleep 600", f"sleep 0.2; touch {tmp_path}/thawed")
    hooked, engine = Hooked(Configured(groups), lambda: "alpha"), Engine()
    suspending = suspend(hooked, engine)
    await exists(tmp_path / "frozen")
    hooked.stop()
    await hooked.stopped()
    assert (tmp_path / "thawed").exists()
    with pytest.raises(HookError):
        await suspending
    with pytest.raises(WrongStateError, match="the daemon is stopping"):
        await suspend(hooked, engine)
    assert engine.cuts == 0


def ask(plane: ControlPlane, **body: object) -> list[dict[str, Any]]:
    return list(plane.lines("POST", "/v1/suspend", {"targets": ["data"], "progress": True} | body))


def test_with_progress_the_cut_comes_before_the_result(plane: ControlPlane) -> None:
    first, last = ask(plane)
    assert first == {"event": "cut", "cut": last["cut"]}
    assert (last["event"], last["verdict"]) == ("done", "consistent")


def test_a_cut_that_exists_already_is_not_announced(plane: ControlPlane) -> None:
    ask(plane)
    (only,) = ask(plane, allow_existing=True)
    assert (only["event"], only["already"]) == ("done", True)


def test_with_progress_a_refusal_is_a_problem(plane: ControlPlane) -> None:
    ask(plane)
    body = {"targets": ["data"], "progress": True}
    assert plane.ask("POST", "/v1/suspend", body)[0] == 409
