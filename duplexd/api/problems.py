"""Errors as application/problem+json (RFC 9457): one shape for every error of the HTTP API."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog

from duplexd.api.models.request_model import CUT_ID_PATTERN
from duplexd.api.wire import Answer, HttpError
from duplexd.errors import DuplexdError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from duplexd.json_object import Json

MEDIA_TYPE = "application/problem+json"

# What pydantic says of a text that does not match, for who does not read regular expressions
_PLAIN = {CUT_ID_PATTERN: "not the id of a cut; expected 16 digits of 0-9 and a-f, as in `cuts`"}

# HTTP's own errors, which have no class in errors.py: what duplexctl exits with
_EXIT_CODES = {400: 2, 403: 4, 404: 3, 405: 2, 408: 8, 413: 2, 429: 1, 503: 7}

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd.api")


def problem(
    status: int, detail: str, title: str | None = None, exit_code: int | None = None
) -> Json:
    """A problem by HTTP status; title and exit code follow from it unless given."""
    title = title or HTTPStatus(status).phrase.lower()
    return {
        "type": "urn:duplexd:problem:" + title.replace(" ", "-"),
        "title": title,
        "status": status,
        "detail": detail,
        "exit_code": _EXIT_CODES.get(status, 1) if exit_code is None else exit_code,
    }


def problem_of(error: Exception) -> Json:
    """The problem that an error is. One that is nobody's but ours is logged, with where it was."""
    if isinstance(error, DuplexdError):
        detail = "; ".join(str(error).splitlines())  # those of a configuration have several
        return problem(error.http_status, detail, error.title, error.exit_code)
    if isinstance(error, HttpError):
        return problem(error.status, error.detail)
    if isinstance(error, OSError) and error.errno:  # a disk's; what follows from it is in events
        where = f"{error.filename}: " if error.filename else ""
        log.error("a request failed", error=f"{where}{error.strerror}")
        return problem(500, f"{where}{error.strerror}")
    log.error("a request failed unexpectedly", exc_info=error)
    return problem(500, f"unexpected {type(error).__name__}; the daemon's log has the details")


def invalid(error: ValidationError) -> str:
    """One line for a body that does not fit its model: `targets.0: Input should be ...; ...`."""
    parts = []
    for item in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in item["loc"])
        text = _PLAIN.get(item.get("ctx", {}).get("pattern", ""), item["msg"])
        parts.append(f"{place}: {text}" if place else text)
    return "; ".join(parts[:5]).replace("\n", " ")


def answer(value: Json, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """The answer that a problem is."""
    return Answer(value["status"], MEDIA_TYPE, json.dumps(value).encode(), headers)


def respond(status: int, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """An error of HTTP's own."""
    return answer(problem(status, detail), headers)
