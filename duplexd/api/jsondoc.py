"""docs/json.md, generated from the models: `python -m duplexd.api.jsondoc > docs/json.md`.

A page for people beside /openapi.json for programs, from the same two sources: the table of routes
and the models with their descriptions. A test fails when the page is not what this prints.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import BaseModel

from duplexd.api.models import (
    base,
    change_model,
    clone_model,
    cut_model,
    drill_model,
    health_model,
    line_model,
    mark_model,
    reader_model,
    reload_model,
    repair_model,
    request_model,
    restart_model,
    restore_model,
    roles_model,
    rollback_model,
    status_model,
)
from duplexd.api.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.json_object import Json

MODULES = (
    request_model,
    status_model,
    health_model,
    cut_model,
    drill_model,
    change_model,
    reader_model,
    clone_model,
    rollback_model,
    repair_model,
    reload_model,
    restart_model,
    restore_model,
    line_model,
    mark_model,
    roles_model,
    base,
)
HEAD = """# JSON

What the HTTP API of the daemon (HTTP/1.1 over a Unix socket, or over TLS) sends. This page is
generated from the models in `duplexd/api/models/`; the daemon's `/openapi.json` says the same to
programs.

Rules:

- Every answer is an object, or one object a line (`application/x-ndjson`).
- Objects may gain fields: ignore those that you do not know. Requests must not have unknown fields.
- Sizes and offsets are bytes, durations are seconds; a `time` is seconds since 1970 (UTC).
- Errors are `Problem` objects (`application/problem+json`). A stream that fails after its first
  line ends with a `Failed` line.

What `duplexctl --json` prints is on [a page of its own](duplexctl-json.md).
"""


def _type(schema: Json) -> str:
    """A JSON schema in a few characters: `text`, `list of VolumeStatus`, `"a" or null`."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema or "const" in schema:
        return " or ".join(
            f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")])
        )
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(part) for part in schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    names = {
        "string": "text",
        "integer": "integer",
        "number": "number",
        "boolean": "boolean",
        "null": "null",
        "object": "object",
    }
    return names.get(schema.get("type", ""), "anything")


def _limits(schema: Json) -> str:
    words = {
        "minLength": "at least {} characters",
        "maxLength": "at most {} characters",
        "minItems": "at least {}",
        "maxItems": "at most {}",
    }
    words |= {"exclusiveMinimum": "above {}", "maximum": "at most {}"}
    return ", ".join(
        text.format(f"{schema[key]:g}") for key, text in words.items() if key in schema
    )


def _rows(model: type[BaseModel]) -> Iterator[str]:
    schema = model.model_json_schema(by_alias=True)
    required = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        notes = [field.get("description", ""), _limits(field)]
        if name not in required and "default" in field:
            notes.append(f"default `{json.dumps(field['default'])}`")
        yield f"| `{name}` | {_type(field)} | {'; '.join(note for note in notes if note)} |"


def _section(model: type[BaseModel]) -> Iterator[str]:
    yield f"### {model.__name__}\n"
    if model.__doc__:
        yield model.__doc__ + "\n"
    yield "| field | type | meaning |\n|---|---|---|"
    yield from _rows(model)
    yield ""


def _link(model: type[BaseModel]) -> str:
    return f"[{model.__name__}](#{model.__name__.lower()})"


def _models() -> Iterator[type[BaseModel]]:
    """All of them, each where it is defined."""
    for module in MODULES:
        defined = (
            value
            for value in vars(module).values()
            if isinstance(value, type) and value.__module__ == module.__name__
        )
        yield from (
            model
            for model in defined
            if issubclass(model, BaseModel) and model not in {base.Request, base.Answer}
        )


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## Routes\n", "| route | request | answer | lines |\n|---|---|---|---|"]
    for entry in ROUTES:
        body = _link(entry.body) if entry.body else ""
        answers = ", ".join(map(_link, entry.answers)) or ("" if entry.lines else entry.media_type)
        lines_of = ", ".join(map(_link, entry.lines))
        parts.append(f"| `{entry.method} {entry.path}` | {body} | {answers} | {lines_of} |")
    parts += ["", "## Objects\n"]
    for model in _models():
        parts += _section(model)
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    print(page(), end="")
