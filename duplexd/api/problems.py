"""Errors as application/problem+json: one shape for every error of the control socket."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from duplexd.errors import DuplexdError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationError
    from starlette.requests import Request

MEDIA_TYPE = "application/problem+json"

# HTTP's own errors, for which there is no class in errors.py: the exit code they mean to duplexctl
_EXIT_CODES = {400: 2, 404: 3, 405: 2, 408: 8, 413: 2, 503: 7}


def problem(
    status: int, detail: str, title: str | None = None, exit_code: int | None = None
) -> dict[str, Any]:
    """A problem by HTTP status; title and exit code follow from it unless given."""
    title = title or HTTPStatus(status).phrase.lower()
    return {
        "type": "urn:duplexd:problem:" + title.replace(" ", "-"),
        "title": title,
        "status": status,
        "detail": detail,
        "exit_code": _EXIT_CODES.get(status, 1) if exit_code is None else exit_code,
    }


def problem_of(error: DuplexdError) -> dict[str, Any]:
    """The problem that an error of the control plane is."""
    return problem(error.http_status, str(error), error.title, error.exit_code)


def invalid(error: ValidationError) -> str:
    """One line for a body that does not fit its model: `targets.0: Input should be a valid string; ...`."""
    parts = []
    for item in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in item["loc"])
        parts.append(f"{place}: {item['msg']}" if place else item["msg"])
    return "; ".join(parts[:5]).replace("\n", " ")


def respond(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(problem(status, detail), status, headers, media_type=MEDIA_TYPE)


async def on_duplexd_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DuplexdError)
    return JSONResponse(problem_of(error), error.http_status, media_type=MEDIA_TYPE)


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    status = getattr(error, "status_code", 500)
    details = {
        404: f"no {request.url.path} here; /openapi.json lists what there is",
        405: f"{request.method} is not for {request.url.path}; /openapi.json lists what is",
    }
    return respond(
        status,
        details.get(status, str(getattr(error, "detail", error))),
        getattr(error, "headers", None),
    )


async def on_bug(_request: Request, error: Exception) -> JSONResponse:
    return respond(500, f"unexpected {type(error).__name__}; the daemon's log has the details")


async def on_gone(_request: Request, _error: Exception) -> JSONResponse:
    return respond(400, "the request was broken off")  # nobody reads it
