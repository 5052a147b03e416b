"""Errors of the control plane: one table from class to exit code, HTTP status and title.

A client of the HTTP interface and a script around `duplexctl` must be able to tell the same cases
apart, so both numbers are in one place, and a test compares docs/exit-codes.md with it. The codes
are promised; the texts are not. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping


class DuplexdError(Exception):
    """It failed for another reason; the message says which, and what to do."""

    exit_code = 1
    http_status = 500
    title = "failed"


class UsageError(DuplexdError):
    """The command or request itself is wrong."""

    exit_code = 2
    http_status = 400
    title = "bad request"


class NotFoundError(DuplexdError):
    """No such volume, group or lease."""

    exit_code = 3
    http_status = 404
    title = "not found"


class ForbiddenError(DuplexdError):
    """The caller may not do this."""

    exit_code = 4
    http_status = 403
    title = "no permission"


class WrongStateError(DuplexdError):
    """Not possible in the present state."""

    exit_code = 5
    http_status = 409
    title = "wrong state"


class ConfigurationError(DuplexdError):
    """The configuration file is wrong: file and key are in the text."""

    exit_code = 6
    http_status = 422
    title = "bad configuration"


class UnreachableError(DuplexdError):
    """The daemon does not answer."""

    exit_code = 7
    http_status = 503
    title = "daemon not reachable"


class UndecidedError(UnreachableError):
    """Whether the cut of a group is consistent is in doubt: run `duplexctl settle GROUP`."""

    title = "outcome not known"


class TimedOutError(DuplexdError):
    """It took longer than the caller allowed."""

    exit_code = 8
    http_status = 504
    title = "timed out"


class LeaseLostError(DuplexdError):
    """The hold ended before the command: the verdict is void."""

    exit_code = 9
    http_status = 410
    title = "lease lost or verdict void"


class UncheckedError(DuplexdError):
    """`verify-cut` found the cut, but too little of the images was checked; `verify`: none was."""

    exit_code = 10
    http_status = 409
    title = "nothing was checked"


class DamageError(DuplexdError):
    """The journal is damaged where it was known to be durable."""

    exit_code = 1
    http_status = 500
    title = "journal damaged"


class LimitError(DuplexdError):
    """A named limit was met."""

    exit_code = 1
    http_status = 429
    title = "limit reached"


_BY_EXIT_CODE: dict[int, type[DuplexdError]] = {
    each.exit_code: each
    for each in (
        UsageError, NotFoundError, ForbiddenError, WrongStateError,
        ConfigurationError, UnreachableError, TimedOutError, LeaseLostError,
        UncheckedError,
    )
}  # fmt: skip


def error_of(problem: Mapping[str, object], where: str = "") -> DuplexdError:
    """The error that a daemon's problem document describes; `where` is put before its text."""
    code = problem.get("exit_code")
    error = _BY_EXIT_CODE.get(code, DuplexdError) if isinstance(code, int) else DuplexdError
    text = problem.get("detail") or problem.get("title") or "the daemon gave no reason; see its log"
    text = printable(str(text))  # it comes from another machine, and is one line
    return error(f"{where}: {text}" if where else text)
