"""The OpenAPI 3.1 document, built from the table of routes and the models.

It is built and not written, so that it cannot differ from what is served; a test generates requests
from it and checks the answers against it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from pydantic.json_schema import models_json_schema

import duplexd
from duplexd.api import problems
from duplexd.api.models.base import Problem
from duplexd.api.models.request_model import CUT_ID_PATTERN
from duplexd.api.responses import LINES_TYPE

if TYPE_CHECKING:
    from pydantic import BaseModel

    from duplexd.api.routing import RouteEntry
    from duplexd.json_object import Json

PATH_SCHEMAS = {"cut": {"type": "string", "pattern": CUT_ID_PATTERN}}
_REF = "#/components/schemas/{model}"


def _ref(model: type[BaseModel]) -> Json:
    return {"$ref": _REF.format(model=model.__name__)}


def _any(models: tuple[type[BaseModel], ...]) -> Json:
    return _ref(models[0]) if len(models) == 1 else {"anyOf": [_ref(model) for model in models]}


def _content(entry: RouteEntry) -> Json:
    content: Json = {}
    if entry.answers:
        content["application/json"] = {"schema": _any(entry.answers)}
    if entry.lines:
        # what a line may be; the answer is any number of them, each ended by \n
        content[LINES_TYPE] = {
            "schema": {"type": "string"},
            "itemSchema": _any(entry.lines),
            "x-line": _any(entry.lines),
        }
    return content or {
        entry.media_type: {
            "schema": {"type": "object" if entry.media_type.endswith("json") else "string"}
        }
    }


def _parameters(entry: RouteEntry) -> list[Json]:
    path = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": PATH_SCHEMAS.get(name, {"type": "string", "minLength": 1}),
        }
        for name in re.findall(r"{(\w+)}", entry.path)
    ]
    return path + [
        {
            "name": name,
            "in": "query",
            "required": name in entry.needed,
            "schema": schema,
        }
        for name, schema in entry.query.items()
    ]


def _operation(entry: RouteEntry) -> Json:
    operation: Json = {
        "operationId": entry.endpoint.__name__,
        "summary": entry.summary,
        "responses": {
            "200": {"description": "done", "content": _content(entry)},
            "default": {
                "description": "any error",
                "content": {problems.MEDIA_TYPE: {"schema": _ref(Problem)}},
            },
        },
    }
    if parameters := _parameters(entry):
        operation["parameters"] = parameters
    if entry.body:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _ref(entry.body)}},
        }
    return operation


@cache
def document(routes: tuple[RouteEntry, ...]) -> Json:
    """The whole document."""
    paths: Json = {}
    models: set[type[BaseModel]] = {Problem}.union(
        *(entry.answers + entry.lines for entry in routes)
    )
    models |= {entry.body for entry in routes if entry.body}
    for entry in routes:
        paths.setdefault(entry.path, {})[entry.method.lower()] = _operation(entry)
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(model, "validation") for model in ordered], ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {"title": "duplexd control socket", "version": duplexd.__version__},
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }
