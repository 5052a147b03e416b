"""What an answer must hold, whichever controller gave it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from duplexd.errors import UnreachableError

if TYPE_CHECKING:
    from duplexd.client.http import Http
    from duplexd.json_object import Json


def need(answer: Json, link: Http, *keys: str) -> Any:
    """A value that every version of duplexd gives that takes part in cuts of groups.

    Raises UnreachableError.
    """
    value: object = answer
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise UnreachableError(
                f"{link.prefix}an answer has no {'.'.join(keys)}; is it a duplexd of this version?"
            )
        value = value[key]
    return value


def check_sender(answer: Json, link: Http) -> None:
    """Raises UnreachableError if another controller answers here: its vote is its own."""
    real = need(answer, link, "controller")
    if real != link.name:
        raise UnreachableError(
            f"{link.prefix}controllers.{link.name} of the groups file leads to a controller that"
            f" calls itself {real!r}; correct its socket or url"
        )
