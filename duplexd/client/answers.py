"""What an answer must hold, whoever gave it."""

from __future__ import annotations

from typing import Any

from duplexd.errors import UnreachableError


def need(answer: dict[str, Any], member: str, *keys: str) -> Any:
    """A value of an answer that is there in every version that takes cuts with others. Raises UnreachableError."""
    value: Any = answer
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise UnreachableError(
                f"{member}: an answer has no {'.'.join(keys)}; is that a duplexd of this version?"
            )
        value = value[key]
    return value


def check_sender(answer: dict[str, Any], member: str) -> None:
    """Raises UnreachableError if what a controller says of a cut is not said by `member`: nobody's vote counts for another's."""
    real = need(answer, member, "controller")
    if real != member:
        raise UnreachableError(
            f"{member}: controllers.{member} of the groups file leads to a controller that calls itself {real!r}; correct its socket or url"
        )
