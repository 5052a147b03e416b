"""A restart in place, as the API asks the daemon for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    from duplexd.json_object import Json


class Restarts(Protocol):
    """The program, and the one that is to take its place."""

    async def restart(self, force: bool) -> Json: ...
    def show(self) -> Json: ...


class _NotRestarted:
    """A controller that is no process of its own."""

    async def restart(self, force: bool) -> Json:  # noqa: ARG002
        raise WrongStateError("this controller cannot be restarted in place")

    def show(self) -> Json:
        return {"program": "", "last": None}


NOT_RESTARTED: Restarts = _NotRestarted()
