"""From a request to its endpoint: paths with parameters, roles, errors as problems.

The table of routes is a tuple of `RouteEntry` (routes.py); this turns it into the application that
connections call. A path is compared segment by segment after it was split, so that `a%2Fb` is one
segment that contains a slash.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from duplexd.api import access, problems
from duplexd.api.http_request import Call
from duplexd.api.wire import HttpError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pydantic import BaseModel

    from duplexd.api import wire
    from duplexd.api.http_request import Context, Link
    from duplexd.api.models import base
    from duplexd.api.responses import Lines, Slow
    from duplexd.json_object import Json

    AnyAnswer = wire.Answer | Lines | Slow
    Endpoint = Callable[[Context, Call], Awaitable[AnyAnswer]]
    Application = Callable[[Link, wire.Request], Awaitable[AnyAnswer]]


@dataclass(frozen=True, eq=False)
class RouteEntry:
    """A route.

    `answers` are models of the JSON object, `lines` those of the lines of a stream; `query` has a
    JSON schema by name of the parameter; the `needed` ones must be there.
    """

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    body: type[base.Request] | None = None
    answers: tuple[type[BaseModel], ...] = ()
    lines: tuple[type[BaseModel], ...] = ()
    query: Mapping[str, Json] = field(default_factory=dict)
    media_type: str = "application/json"
    needed: tuple[str, ...] = ()

    @property
    def role(self) -> access.Role:
        """What the caller must have."""
        return access.needed(self.method, self.path, self.media_type)

    @property
    def pattern(self) -> tuple[str, ...]:
        """The segments of the path; a parameter is `{name}`."""
        return tuple(self.path[1:].split("/"))


class Router:
    """Finds routes by path and method. GET answers HEAD, too."""

    def __init__(self, routes: tuple[RouteEntry, ...]) -> None:
        self._by_pattern: dict[tuple[str, ...], dict[str, RouteEntry]] = {}
        for entry in routes:
            self._by_pattern.setdefault(entry.pattern, {})[entry.method] = entry

    def find(self, request: wire.Request) -> tuple[RouteEntry, dict[str, str]]:
        """The route and its parameters. Raises HttpError 404; 405 is `NoSuchMethodError`."""
        segments = request.segments
        for pattern, methods in self._by_pattern.items():
            parameters = matched(pattern, segments)
            if parameters is not None:
                return self._of_method(request, methods), parameters
        raise HttpError(404, f"no such path: {request.path}; /openapi.json lists the routes")

    @staticmethod
    def _of_method(request: wire.Request, methods: Mapping[str, RouteEntry]) -> RouteEntry:
        entry = methods.get("GET" if request.method == "HEAD" else request.method)
        if entry is None:
            raise NoSuchMethodError(request, methods)
        return entry


class NoSuchMethodError(HttpError):
    """The path has other methods: `allowed`."""

    def __init__(self, request: wire.Request, methods: Mapping[str, RouteEntry]) -> None:
        self.allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])
        detail = f"{request.method} is not possible on {request.path}; allowed: {self.allowed}"
        super().__init__(405, detail)


def matched(pattern: tuple[str, ...], segments: tuple[str, ...]) -> dict[str, str] | None:
    """The parameters of a path that fits; None if it does not. A parameter is never empty."""
    if len(pattern) != len(segments):
        return None
    parameters = {}
    for wanted, found in zip(pattern, segments, strict=True):
        if wanted[:1] == "{" and found:
            parameters[wanted[1:-1]] = found
        elif wanted != found:
            return None
    return parameters


def application(context: Context, routes: tuple[RouteEntry, ...]) -> Application:
    """What answers requests by the endpoints of its routes."""
    return dispatching(routes, lambda entry, call: entry.endpoint(context, call))


def dispatching(
    routes: tuple[RouteEntry, ...], respond_to: Callable[[RouteEntry, Call], Awaitable[AnyAnswer]]
) -> Application:
    """What answers requests by `respond_to`, for a peer that has the role which the route needs. It
    never raises, except that it was cancelled.
    """
    router = Router(routes)

    async def respond(link: Link, request: wire.Request) -> AnyAnswer:
        try:
            entry, parameters = router.find(request)
            access.check(link.peer, entry.role)
            return await respond_to(entry, Call(link, request, parameters))
        except NoSuchMethodError as error:
            return problems.respond(error.status, error.detail, (("allow", error.allowed),))
        except Exception as error:  # noqa: BLE001 - a bug costs its own answer, and is logged
            return problems.answer(problems.problem_of(error))

    return respond
