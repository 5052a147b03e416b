"""Hooks of the groups file, around a cut that this process coordinates.

Only what this machine's groups file says is ever run: nothing that a controller answers is a
command. So the file is what has to be trusted. One that every user can write to, or that belongs to
another user, runs nothing.

They are run before the gates close: a file system that is frozen writes, and would wait for the
gates until the hold is lost. Two processes that ran them for one group would thaw what the other
has frozen, so the file is locked meanwhile.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from duplexd.errors import ConfigurationError, UsageError, WrongStateError
from duplexd.runtime.hooks import Hooks, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from duplexd.client.member import Plan
    from duplexd.client.results import Suspended
    from duplexd.runtime.hooks import HookRun

_WRITABLE_BY_ALL = 0o002
_FAILED_CODES = {"consistent": 0, "void": 9}


def check_not_held(plan: Plan) -> None:
    """Raises UsageError for a group with hooks that is held already."""
    if plan.group.hooks:
        raise UsageError(
            f"group {plan.group.hooks[0].group!r} has hooks (before_suspend, after_suspend), which"
            " would wait for the writes that the hold holds; suspend it without a hold, or name"
            " its volumes: then no hook is run"
        )


async def around(plan: Plan, cut: Callable[[], Awaitable[Suspended]]) -> Suspended:
    """What `cut` returns, with the hooks of the plan's groups around it, and in the result."""
    if not plan.group.hooks:
        return await cut()
    if plan.lease is not None:
        check_not_held(plan)
    with locked(plan.group.hooks_file):
        hooks = Hooks(plan.group.hooks, plan.tag, plan.on_hook or _unheard)
        plan.on_made = hooks.made
        found = await hooks.around(cut, _outcome)
    own = [run.json() | {"controller": ""} for run in hooks.runs]
    return replace(found, hooks=own + found.hooks)


def _unheard(_run: HookRun) -> None:
    """Nobody wants to hear of it before the result."""


def _outcome(found: Suspended) -> Outcome:
    return Outcome(found.cut, found.verdict, _FAILED_CODES.get(found.verdict))


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Within, no other process runs hooks of this file. Raises ConfigurationError for one whose
    hooks must not be run; WrongStateError.
    """
    if not path:  # groups that are no file's
        yield
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        check_trusted(path, status.st_mode, status.st_uid, os.geteuid())
        _lock(path, descriptor)
        yield
    finally:
        os.close(descriptor)


def check_trusted(path: str, mode: int, owner: int, own: int) -> None:
    """Raises ConfigurationError if others than root and this user (`own`) decide what is run."""
    if mode & _WRITABLE_BY_ALL:
        raise ConfigurationError(
            f"{path}: every user can write to this file, so its hooks are not run and nothing was"
            " suspended; chmod o-w it"
        )
    if owner not in {0, own}:
        raise ConfigurationError(
            f"{path}: this file belongs to user {owner}, so its hooks are not run and"
            " nothing was suspended; chown it to root, or to the user that runs duplexctl"
        )


def _lock(path: str, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise WrongStateError(
            f"{path}: another suspend runs hooks of this file; nothing was suspended, try again"
        ) from None
