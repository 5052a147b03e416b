"""Suspends of this controller's groups, with the hooks that its configuration names.

The engine knows of no hooks: it calls back when a cut is made. Only `suspend` runs any. A cut
together with other controllers begins with a hold, and a hook that runs while writes wait would
wait for its own writes: the coordinator runs hooks of its own, before the gates close. For the
same reason a suspend under a lease of a group with hooks is refused.

What becomes of a client that goes away: a `before_suspend` that runs is stopped and nothing is
suspended; a cut that was begun is finished. `after_suspend` is run in both cases.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from duplexd.errors import UsageError, WrongStateError
from duplexd.runtime.hooks import Hooks, Outcome
from duplexd.runtime.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from duplexd.json_object import Json
    from duplexd.runtime.hooks import GroupHooks, HookRun

    OnCut = Callable[[str], object]
    Cut = Callable[[OnCut], Coroutine[object, object, Json]]


class Configured(Protocol):
    """The hooks of the configuration in force, and who hears of them."""

    def hooks(self, group: str) -> GroupHooks | None: ...
    def hook_ended(self, run: HookRun) -> None: ...


class Hooked:
    """All suspends of a controller. One group's hooks run once at a time."""

    def __init__(self, configured: Configured, controller: Callable[[], str]) -> None:
        self._configured = configured
        self._controller = controller  # its name
        self._running: dict[str, Hooks] = {}  # by group
        self._cuts: set[asyncio.Task[Json]] = set()  # that go on when nobody waits for them
        self._stopping = False

    def of(self, targets: Sequence[str]) -> list[GroupHooks]:
        """Those of the groups that are named; volumes have none."""
        found = (self._configured.hooks(name) for name in dict.fromkeys(targets))
        return [each for each in found if each is not None]

    async def suspend(
        self, targets: Sequence[str], tag: str, lease_id: str | None, cut: Cut, on_cut: OnCut
    ) -> Json:
        """What `cut` returns, with the hooks' part. A cut goes on if this is cancelled."""
        groups = self.of(targets)
        if not groups:
            return await asyncio.shield(self._begin(cut(on_cut)))
        names = [each.group for each in groups]
        self._refuse(names, lease_id)
        hooks = Hooks(groups, tag, self._configured.hook_ended)
        for name in names:
            self._running[name] = hooks

        def made(cut_id: str) -> None:
            hooks.made(cut_id)
            on_cut(cut_id)

        try:
            result = await hooks.around(lambda: self._until_made(hooks, cut(made)), _outcome)
        finally:
            for name in names:
                del self._running[name]
        where = {"controller": self._controller()}
        return result | {"hooks": [run.json() | where for run in hooks.runs]}

    def _begin(self, work: Coroutine[object, object, Json]) -> asyncio.Task[Json]:
        task = asyncio.get_running_loop().create_task(work)
        self._cuts.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Json]) -> None:
        self._cuts.discard(task)
        if not task.cancelled():
            task.exception()  # perhaps nobody waits for it any more

    async def _until_made(self, hooks: Hooks, work: Coroutine[object, object, Json]) -> Json:
        """The result. A cancelled call returns when the cut is made or refused: `after_suspend`
        must not come before it.
        """
        task = self._begin(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            over = asyncio.wait((task, hooks.outcome), return_when=asyncio.FIRST_COMPLETED)
            await to_its_end(over)
            raise

    def _refuse(self, names: Sequence[str], lease_id: str | None) -> None:
        if self._stopping:
            raise WrongStateError("the daemon is stopping; try again when it is back")
        if lease_id is not None:
            raise UsageError(
                f"group {names[0]!r} has hooks (before_suspend, after_suspend), which would wait"
                " for the writes that the lease holds; suspend it without a lease, or name its"
                " volumes: then no hook is run"
            )
        if busy := [name for name in names if name in self._running]:
            raise WrongStateError(
                f"another suspend runs the hooks of group {busy[0]!r}; nothing was suspended,"
                " try again"
            )

    def stop(self) -> None:
        """Give up what waits, begin no more."""
        self._stopping = True
        for hooks in set(self._running.values()):
            hooks.give_up()

    async def stopped(self) -> None:
        """Wait until every `after_suspend` has ended."""
        for hooks in set(self._running.values()):
            await hooks.finished()

    async def close(self) -> None:
        """Wait for no cut any more: it is in the journal, or is not made."""
        tasks = tuple(self._cuts)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _outcome(result: Json) -> Outcome:
    return Outcome(result["cut"], result["verdict"], 0 if result["verdict"] == "consistent" else 9)
