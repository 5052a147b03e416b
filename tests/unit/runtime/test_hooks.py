"""Hooks around a cut: their order, what runs whatever happens, what a failure does."""

from __future__ import annotations

import asyncio
import os
import resource
import stat
from typing import TYPE_CHECKING, NamedTuple

import pytest

from duplexd.errors import LeaseLostError, WrongStateError
from duplexd.runtime.hooks import GroupHooks, HookError, HookRun, Hooks, Outcome, look_at

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

CUT = "00000000000000aa"
GOOD = Outcome(CUT, "consistent", 0)


class World(NamedTuple):
    """Scripts that write to a log."""

    directory: Path

    def script(self, name: str, body: str = "") -> tuple[str, ...]:
        path = self.directory / name
        state = '"$DUPLEXD_HOOK $DUPLEXD_GROUP $DUPLEXD_CUT,$DUPLEXD_VERDICT,$DUPLEXD_EXIT"'
        path.write_text(f"#!/bin/sh\necho {state} >> {self.directory}/log\n{body}\n")
        path.chmod(0o755)
        return (str(path),)

    def log(self, line: str = "") -> list[str]:
        path = self.directory / "log"
        if line:
            with path.open("a") as file:
                file.write(f"{line}\n")
        return path.read_text().splitlines() if path.exists() else []

    def hooks(
        self, before: str = "", after: str = "", group: str = "db", seconds: float = 600.0
    ) -> GroupHooks:
        return GroupHooks(
            group,
            self.script(f"before-{group}", before),
            self.script(f"after-{group}", after),
            seconds,
        )

    async def logged(self, start: str) -> None:
        await until(lambda: any(line.startswith(start) for line in self.log()))


async def until(condition: Callable[[], object]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(0.01)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def unheard(_run: HookRun) -> None:
    """Nobody listens."""


def of(*groups: GroupHooks) -> Hooks:
    return Hooks(groups, "nightly", unheard)


def shown(hooks: Hooks) -> list[tuple[str, str]]:
    return [(run.hook, run.status) for run in hooks.runs]


def fails(error: Exception) -> Callable[[], Awaitable[str]]:
    async def cut() -> str:
        raise error

    return cut


async def test_hooks_for_which_there_are_too_few_descriptors_keep_none(world: World) -> None:
    before = len(os.listdir("/proc/self/fd"))
    first = os.pipe()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(first) + 1, hard))
    for end in first:
        os.close(end)
    try:
        with pytest.raises(OSError, match="Too many open files"):
            of(world.hooks())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == before


async def test_after_suspend_runs_when_the_cut_is_made_and_not_when_it_is_durable(
    world: World,
) -> None:
    hooks = of(world.hooks())

    async def cut() -> str:
        world.log("made")
        hooks.made(CUT)
        await world.logged("after_suspend")
        world.log("durable")
        return "done"

    assert await hooks.around(cut, lambda _: GOOD) == "done"
    assert world.log() == [
        "before_suspend db ,,",
        "made",
        f"after_suspend db {CUT},,",
        "durable",
    ]
    assert shown(hooks) == [("before_suspend", "ok"), ("after_suspend", "ok")]


async def test_the_result_waits_for_after_suspend(world: World) -> None:
    hooks = of(world.hooks(after=f"sleep 0.3; echo thawed >> {world.directory}/log"))

    async def cut() -> str:
        hooks.made(CUT)
        return "done"

    await hooks.around(cut, lambda _: GOOD)
    assert world.log()[-1] == "thawed"


async def test_groups_are_begun_in_order_and_ended_in_the_opposite_one(world: World) -> None:
    hooks = of(world.hooks(group="a"), world.hooks(group="b"))

    async def cut() -> str:
        hooks.made(CUT)
        return "done"

    await hooks.around(cut, lambda _: GOOD)
    assert [line.split()[:2] for line in world.log()] == [
        ["before_suspend", "a"],
        ["before_suspend", "b"],
        ["after_suspend", "b"],
        ["after_suspend", "a"],
    ]


async def test_a_failed_before_suspend_makes_no_cut_and_is_undone(world: World) -> None:
    hooks = of(world.hooks(group="a"), world.hooks("echo busy; exit 3", group="b"))
    with pytest.raises(HookError) as error:
        await hooks.around(fails(AssertionError("it must not be cut")), lambda _: GOOD)
    assert str(error.value) == (
        "before_suspend of group 'b' failed (exit code 3: busy); nothing was suspended"
    )
    assert [line.split()[:2] for line in world.log()][2:] == [
        ["after_suspend", "b"],
        ["after_suspend", "a"],
    ]
    assert world.log()[-1] == "after_suspend a ,,1"


async def test_the_hooks_of_groups_that_were_not_begun_are_not_run(world: World) -> None:
    hooks = of(world.hooks("exit 1", group="a"), world.hooks(group="b"))
    with pytest.raises(HookError):
        await hooks.around(fails(AssertionError("it must not be cut")), lambda _: GOOD)
    assert [line.split()[1] for line in world.log()] == ["a", "a"]


async def test_a_before_suspend_that_takes_too_long_is_killed_and_undone(world: World) -> None:
    hooks = of(world.hooks("sleep 600", seconds=1.0))  # it is started by then
    with pytest.raises(HookError, match=r"killed after 1 s \(hook_timeout\)"):
        await hooks.around(fails(AssertionError("it must not be cut")), lambda _: GOOD)
    assert [run.hook for run in hooks.runs] == ["before_suspend", "after_suspend"]
    assert hooks.runs[0].status == "timed-out"


async def test_a_cut_that_is_refused_is_undone_with_its_exit_code(world: World) -> None:
    hooks = of(world.hooks())
    with pytest.raises(WrongStateError, match=r"^not DUPLEX$"):
        await hooks.around(fails(WrongStateError("not DUPLEX")), lambda _: GOOD)
    assert world.log()[-1] == "after_suspend db ,,5"


async def test_a_void_cut_is_known_to_be_void_if_it_is_before_the_gates_open(world: World) -> None:
    hooks = of(world.hooks())

    async def cut() -> str:
        return "void"

    await hooks.around(cut, lambda _: Outcome(CUT, "void", 9))
    assert world.log()[-1] == f"after_suspend db {CUT},void,9"


async def test_what_after_suspend_left_undone_is_in_the_error_of_the_cut(world: World) -> None:
    hooks = of(world.hooks(after="echo still frozen; exit 1"))
    with pytest.raises(LeaseLostError) as error:
        await hooks.around(fails(LeaseLostError("expired")), lambda _: GOOD)
    assert str(error.value) == (
        "expired; after_suspend of group 'db' failed (exit code 1: still frozen)"
    )


async def test_a_failed_after_suspend_leaves_the_result_and_is_in_it(world: World) -> None:
    hooks = of(world.hooks(group="a"), world.hooks(after="exit 4", group="b"))

    async def cut() -> str:
        hooks.made(CUT)
        return "done"

    assert await hooks.around(cut, lambda _: GOOD) == "done"
    assert [(run.hook, run.group, run.fault) for run in hooks.runs[2:]] == [
        ("after_suspend", "b", "after_suspend of group 'b' failed (exit code 4)"),
        ("after_suspend", "a", ""),
    ]


async def test_a_caller_that_is_cancelled_in_before_suspend_has_it_undone(world: World) -> None:
    hooks = of(world.hooks("sleep 600", after="sleep 0.2"))
    around = asyncio.ensure_future(
        hooks.around(fails(AssertionError("it must not be cut")), lambda _: GOOD)
    )
    await world.logged("before_suspend")
    around.cancel()
    await world.logged("after_suspend")
    around.cancel()  # a second one does not cut it short
    with pytest.raises(asyncio.CancelledError):
        await around
    assert shown(hooks) == [("after_suspend", "ok")]


async def test_a_caller_that_is_cancelled_in_the_cut_has_it_undone(world: World) -> None:
    hooks = of(world.hooks())

    async def cut() -> str:
        await asyncio.Event().wait()
        return "never"

    around = asyncio.ensure_future(hooks.around(cut, lambda _: GOOD))
    await world.logged("before_suspend")
    await until(lambda: hooks.runs)
    around.cancel()
    with pytest.raises(asyncio.CancelledError):
        await around
    assert world.log()[-1] == "after_suspend db ,,"


async def test_a_stop_ends_before_suspend_and_runs_the_other(world: World) -> None:
    hooks = of(world.hooks("sleep 600"))
    around = asyncio.ensure_future(
        hooks.around(fails(AssertionError("it must not be cut")), lambda _: GOOD)
    )
    await world.logged("before_suspend")
    hooks.give_up()
    await hooks.finished()
    with pytest.raises(HookError, match="the suspend was given up"):
        await around
    assert shown(hooks) == [("before_suspend", "stopped"), ("after_suspend", "ok")]


async def test_a_stop_does_not_wait_for_a_cut_and_one_made_later_is_not_called_good(
    world: World,
) -> None:
    hooks, waiting, go_on = of(world.hooks()), asyncio.Event(), asyncio.Event()

    async def cut() -> str:
        waiting.set()
        await go_on.wait()
        hooks.made(CUT)
        return "done"

    around = asyncio.ensure_future(hooks.around(cut, lambda _: GOOD))
    await waiting.wait()
    hooks.give_up()
    await hooks.finished()
    assert world.log()[-1] == "after_suspend db ,,"
    go_on.set()
    await around
    assert hooks.runs[-1].status == "failed"
    assert "before the cut was made" in hooks.runs[-1].fault


@pytest.mark.parametrize(
    ("mode", "why"),
    [(None, "does not exist, or cannot be reached"), (0o644, "is not executable for this user")],
)
async def test_nothing_is_run_if_one_of_the_programs_cannot_be(
    world: World, mode: int | None, why: str
) -> None:
    groups = world.hooks()
    after = world.directory / "after-db"
    if mode is None:
        after.unlink()
    else:
        after.chmod(mode)
    hooks = of(groups)
    with pytest.raises(HookError) as error:
        await hooks.around(fails(AssertionError("it must not be cut")), lambda _: GOOD)
    assert f"after_suspend of group 'db': '{after}' {why}" in str(error.value)
    assert "no hook was run, and nothing was suspended" in str(error.value)
    assert world.log() == []


async def test_a_group_with_after_suspend_alone_has_it_run(world: World) -> None:
    hooks = of(GroupHooks("db", (), world.script("after")))
    with pytest.raises(WrongStateError):
        await hooks.around(fails(WrongStateError("x")), lambda _: GOOD)
    assert shown(hooks) == [("after_suspend", "ok")]


def test_a_program_that_others_can_change_is_complained_of(world: World) -> None:
    (path,) = world.script("freeze")
    assert look_at("groups.db.before_suspend", path) == ""
    (world.directory / "freeze").chmod(0o755 | stat.S_IWOTH)
    assert "can be changed by others" in look_at("groups.db.before_suspend", path)
