"""Hooks of a group: programs that are run before and after the moment of its cut.

    before_suspend ... cut is made ── after_suspend ──────┐
                           └── secondaries durable, verdict ┴── the result, with what hooks did

Both who run hooks need the same promises: the daemon for its own groups, and the coordinator for
those of the groups file. So the order of things is here, and what a cut is stays with them.

- `after_suspend` is run exactly once for each group whose `before_suspend` was begun, whatever
  became of it and of the cut: a file system that was frozen must be thawed.
- It is begun in the turn of the loop in which the cut is known to be made, beside the work that
  makes the secondaries durable. So it does not know the verdict yet, unless that is void already.
- Groups are begun in the order named, and ended in the opposite one, as brackets are. A failed
  `after_suspend` keeps none of the others from it.
- Nothing is begun before all programs are found to be executable: a typing error in the name of the
  one that thaws must not be found out after the freeze.
- A cancelled caller stops a `before_suspend` that runs. It waits for an `after_suspend`, which
  `hook_timeout` bounds.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from duplexd.errors import DuplexdError
from duplexd.limits import HOOK_OUTPUT_BYTES_MAX, HOOK_TIMEOUT_SECONDS_DEFAULT
from duplexd.printable import printable
from duplexd.runtime import child
from duplexd.runtime.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from duplexd.json_object import Json

T = TypeVar("T")
BEFORE, AFTER = "before_suspend", "after_suspend"
_LOOK_SECONDS_MIN = 10.0
_LINE_CHARACTERS_MAX = 200  # of the output, in a message


class GroupHooks(NamedTuple):
    """What is run for a group; an empty command is none."""

    group: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    timeout_s: float = HOOK_TIMEOUT_SECONDS_DEFAULT


class HookRun(NamedTuple):
    """What a hook did, as results and events show it."""

    hook: str
    group: str
    status: str  # ok, failed, timed-out, stopped
    seconds: float
    exit_code: int | None
    output: str
    why: str

    @property
    def fault(self) -> str:
        """What went wrong, in words; empty if nothing did."""
        return fault(self._asdict())

    def json(self) -> Json:
        return self._asdict()


class HookError(DuplexdError):
    """A hook failed, so nothing was suspended."""


class Outcome(NamedTuple):
    """What is known of a suspend when `after_suspend` is begun."""

    cut: str = ""
    verdict: str = ""  # not before it is known
    exit_code: int | None = None


def fault(run: Json) -> str:
    """What went wrong with a hook, by its row in a result."""
    if run["status"] == child.OK:
        return ""
    lines = str(run.get("output", "")).strip().splitlines()
    said = f": {printable(lines[-1])[:_LINE_CHARACTERS_MAX]}" if lines else ""
    why = printable(str(run.get("why") or run["status"]))
    return f"{run['hook']} of group {printable(str(run['group']))!r} failed ({why}{said})"


def faults(runs: Sequence[Json]) -> list[str]:
    """What went wrong with these."""
    return [text for text in map(fault, runs) if text]


class Hooks:
    """The hooks around one cut, to be used once: `await Hooks(...).around(cut, outcome_of)`.

    `note` is called with each run as it ends.
    """

    def __init__(
        self, groups: Sequence[GroupHooks], tag: str, note: Callable[[HookRun], object]
    ) -> None:
        self._groups = groups
        self._tag = tag
        self._note = note
        self._begun: list[GroupHooks] = []
        # Both now: a lack of descriptors must be found out before `before_suspend` is run
        self._stop = child.Stop()
        try:
            self._never = child.Stop()
        except OSError:
            self._stop.close()
            raise
        # Set when `after_suspend` is begun
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._cutting = self._too_early = False
        self._after: asyncio.Future[None] | None = None
        self.runs: list[HookRun] = []

    def made(self, cut: str) -> None:
        """The cut is made: begin with `after_suspend`."""
        if self.outcome.done() and not self.outcome.result().cut:
            self._too_early = True  # `give_up` came first
        self._known(Outcome(cut))

    def give_up(self) -> None:
        """Stop a `before_suspend` that runs, and begin with `after_suspend`, whatever the cut is
        waiting for.
        """
        self._stop.ask()
        if self._cutting:
            self._known(Outcome())

    async def around(
        self, cut: Callable[[], Awaitable[T]], outcome_of: Callable[[T], Outcome]
    ) -> T:
        """The result of `cut`, which calls `made`. Raises HookError if it was not begun."""
        self._after = afterwards = asyncio.ensure_future(self._afterwards())
        try:
            result = await self._through(cut, outcome_of)
        except DuplexdError as error:
            await self._end(afterwards)
            if left := self._left_by_after():
                raise type(error)(f"{error}; {left}") from None
            raise
        except BaseException:
            await self._end(afterwards)
            raise
        await self._end(afterwards)
        return result

    async def finished(self) -> None:
        """Wait until every `after_suspend` has ended. Not for the cut."""
        if self._after is not None:
            await asyncio.wait((self._after,))

    async def _through(
        self, cut: Callable[[], Awaitable[T]], outcome_of: Callable[[T], Outcome]
    ) -> T:
        try:
            await self._look()
            await self._before()
            self._cutting = True
            result = await cut()
        except BaseException as error:
            code = error.exit_code if isinstance(error, DuplexdError) else None
            self._known(Outcome(exit_code=code))
            raise
        self._known(outcome_of(result))
        return result

    async def _end(self, afterwards: asyncio.Future[None]) -> None:
        try:
            await to_its_end(afterwards)
        finally:
            self._stop.close()
            self._never.close()
            if self._too_early:
                self.runs = [_too_early(run) if run.hook == AFTER else run for run in self.runs]

    def _left_by_after(self) -> str:
        return "; ".join(run.fault for run in self.runs if run.hook == AFTER and run.fault)

    def _known(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    async def _look(self) -> None:
        """Raises HookError."""
        commands = [
            (f"{hook} of group {each.group!r}", command[0])
            for each in self._groups
            for hook, command in ((BEFORE, each.before), (AFTER, each.after))
            if command
        ]
        seconds = max(_LOOK_SECONDS_MIN, *(each.timeout_s for each in self._groups))
        try:
            found = await child.in_thread(lambda: _not_executable(commands), seconds)
        except TimeoutError:
            found = [f"the disk that the hooks are on did not answer within {seconds:g} s"]
        if found:
            raise HookError(f"{'; '.join(found)}; no hook was run, and nothing was suspended")

    async def _before(self) -> None:
        for each in self._groups:
            self._begun.append(each)
            if each.before:
                run = await self._run(BEFORE, each, each.before, {}, self._stop)
                if run.fault:
                    raise HookError(f"{run.fault}; nothing was suspended")
        if self._stop.asked:
            raise HookError("the suspend was given up; nothing was suspended")

    async def _afterwards(self) -> None:
        outcome = await self.outcome
        code = "" if outcome.exit_code is None else str(outcome.exit_code)
        variables = {
            "DUPLEXD_CUT": outcome.cut,
            "DUPLEXD_VERDICT": outcome.verdict,
            "DUPLEXD_EXIT": code,
        }
        for each in reversed(self._begun):
            if each.after:
                await self._run(AFTER, each, each.after, variables, self._never)

    async def _run(
        self,
        hook: str,
        each: GroupHooks,
        command: Sequence[str],
        variables: dict[str, str],
        stop: child.Stop,
    ) -> HookRun:
        own = {"DUPLEXD_HOOK": hook, "DUPLEXD_GROUP": each.group, "DUPLEXD_TAG": self._tag}
        ended = await child.run(
            command, own | variables, each.timeout_s, HOOK_OUTPUT_BYTES_MAX, stop
        )
        run = HookRun(
            hook, each.group, ended.status, ended.seconds, ended.exit_code, ended.output, ended.why
        )
        self.runs.append(run)
        self._note(run)
        return run


def _too_early(run: HookRun) -> HookRun:
    why = "it was run before the cut was made, because the daemon stops"
    return run._replace(status=child.FAILED, why=why)


def _not_executable(commands: Sequence[tuple[str, str]]) -> list[str]:
    found = []
    for what, path in commands:
        if not os.path.isfile(path):
            why = (
                "is not a file" if os.path.exists(path) else "does not exist, or cannot be reached"
            )
            found.append(f"{what}: {path!r} {why}")
        elif not os.access(path, os.X_OK, effective_ids=True):
            found.append(f"{what}: {path!r} is not executable for this user; chmod it")
    return found


def look_at(what: str, path: str) -> str:
    """What `check` says of a program; empty if nothing. Blocking."""
    if found := _not_executable([(what, path)]):
        return found[0]
    if os.stat(path).st_mode & 0o022:
        return (
            f"{what}: {path!r} can be changed by others than its owner, who would run what they"
            " like; chmod go-w it"
        )
    return ""
