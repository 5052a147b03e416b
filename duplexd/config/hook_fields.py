"""`before_suspend`, `after_suspend` and `hook_timeout` of a group, in both files.

A command is a list, run without a shell: nothing in it is expanded, and no tag that a client sends
can become a part of it. Its program is an absolute path, because the daemon and duplexctl run with
the search path of the process that started them.
"""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import BeforeValidator, Field

from duplexd import limits
from duplexd.config.fields import Section
from duplexd.runtime.hooks import GroupHooks
from duplexd.units import parse_duration, toml

_EXAMPLE = '["/usr/local/sbin/freeze", "db"]'


def check_command(value: object) -> list[str]:
    """A program and its arguments."""
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise ValueError(
            f"{toml(value)} is not a command; expected a list of the program and its arguments,"
            f" such as {_EXAMPLE}"
        )
    if len(value) > limits.HOOK_ARGUMENTS_MAX:
        raise ValueError(
            f"{len(value)} arguments are too many; expected at most {limits.HOOK_ARGUMENTS_MAX}:"
            " write a script"
        )
    if any("\0" in each for each in value):
        raise ValueError("a command cannot contain NUL; remove it")
    if not os.path.isabs(value[0]):
        raise ValueError(
            f"{value[0]!r} is not an absolute path; expected one, such as {_EXAMPLE}: no search"
            " path and no shell is used"
        )
    return list(value)


def check_hook_timeout(value: object) -> float:
    """Seconds that a hook may take."""
    seconds = parse_duration(value)
    low, high = limits.HOOK_TIMEOUT_SECONDS_MIN, limits.HOOK_TIMEOUT_SECONDS_MAX
    if not low <= seconds <= high:
        raise ValueError(f'{toml(value)} is not between {low:g} s and {high:g} s; write "10s"')
    return seconds


Command = Annotated[list[str], BeforeValidator(check_command)]


class HookFields(Section):
    """The part of `[groups.NAME]` that says what is run around its suspends."""

    before_suspend: Command | None = Field(default=None, examples=[_EXAMPLE])
    after_suspend: Command | None = Field(default=None, examples=['["/usr/local/sbin/thaw", "db"]'])
    hook_timeout: Annotated[float, BeforeValidator(check_hook_timeout)] = Field(
        default=limits.HOOK_TIMEOUT_SECONDS_DEFAULT, examples=['"10s"']
    )

    def hooks(self, group: str) -> GroupHooks | None:
        """What is run for the group of this name; None if nothing is."""
        before, after = tuple(self.before_suspend or ()), tuple(self.after_suspend or ())
        if not before and not after:
            return None
        return GroupHooks(group, before, after, self.hook_timeout)
