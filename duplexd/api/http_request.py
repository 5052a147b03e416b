"""What an endpoint does with a request: its body, its parameters, its connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from duplexd.api import problems
from duplexd.api.lanes import once_a_turn
from duplexd.api.responses import encode
from duplexd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from duplexd.api.access import Peer
    from duplexd.api.actions import Actions
    from duplexd.api.health import HealthOf
    from duplexd.api.wire import Request
    from duplexd.limits import ApiLimits

M = TypeVar("M", bound=BaseModel)


class Context:
    """What the endpoints work with."""

    __slots__ = ("actions", "health", "limits", "ready", "scrape", "whole_status")

    def __init__(
        self,
        actions: Actions,
        limits: ApiLimits,
        scrape: Callable[[], Callable[[], bytes]],
        ready: Callable[[], bool],
        health: HealthOf,
    ) -> None:
        self.actions = actions
        self.limits = limits
        self.scrape = scrape  # see `scrape.Scrape.prepare`
        self.ready = ready
        self.health = health
        # of all volumes, for all who asked at that time; see `lanes.once_a_turn`
        self.whole_status = once_a_turn(lambda: encode(actions.status()))


class Link(Protocol):
    """What an endpoint may know of the connection that asks."""

    @property
    def peer(self) -> Peer: ...
    def abort(self) -> None: ...


class Call:
    """A request that found its endpoint."""

    __slots__ = ("link", "parameters", "query", "request")

    def __init__(self, link: Link, request: Request, parameters: Mapping[str, str]) -> None:
        self.link = link
        self.request = request
        self.parameters = parameters
        self.query = request.query

    @property
    def peer(self) -> Peer:
        """Who asks."""
        return self.link.peer

    def parse(self, model: type[M]) -> M:
        """The body. Raises UsageError if it does not fit."""
        try:
            return model.model_validate_json(self.request.body)
        except ValidationError as error:
            raise UsageError(problems.invalid(error)) from None

    def flag(self, name: str, default: bool) -> bool:
        """A parameter of the query. Raises UsageError."""
        text = self._last(name)
        if text is None:
            return default
        if text not in {"true", "false"}:
            raise UsageError(f'invalid {name}: {text!r}; expected "true" or "false"')
        return text == "true"

    def number(self, name: str) -> int | None:
        """A whole number among the parameters of the query, None if it is not there."""
        text = self._last(name)
        if text is None:
            return None
        if not text.isascii() or not text.isdigit() or len(text) > 19:
            raise UsageError(f"invalid {name}: {text[:40]!r}; expected a whole number")
        return int(text)

    def _last(self, name: str) -> str | None:
        values = self.query.get(name)
        return values[-1] if values else None
