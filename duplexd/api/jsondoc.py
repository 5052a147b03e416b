"""docs/json.md, written from the models: `python -m duplexd.api.jsondoc > docs/json.md`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from duplexd.api.models import base, cuts, lines, requests, status
from duplexd.api.routes import ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = """# JSON

What `duplexctl --json` prints and the control socket (HTTP/1.1 over a Unix socket) sends. This page is written from the models in
`duplexd/api/models/`; the daemon's `/openapi.json` says the same to programs.

Rules: every output is an object, or one object a line (`application/x-ndjson`). Objects may gain fields: ignore those you do not know. Requests must
not have unknown fields. Sizes and offsets are bytes, times are seconds; a `time` is seconds since 1970 (UTC). Errors are `Problem` objects
(`application/problem+json`); a stream that fails after its first line ends with a `Failed` line.

`duplexctl quiesce --json -- CMD` prints, after CMD's output, `{"lease", "status", "verdict", "reason"}`; without CMD the `Held` line and then
`{"lease", "verdict", "reason"}`.
"""


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in a few characters: `text`, `list of VolumeStatus`, `"a" or "b"`, `... or null`."""
    if "$ref" in schema:
        return (
            f"[{schema['$ref'].rpartition('/')[2]}](#{schema['$ref'].rpartition('/')[2].lower()})"
        )
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


def _limits(schema: dict[str, Any]) -> str:
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
    for module in (requests, status, cuts, lines, base):
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
        answers = ", ".join(map(_link, entry.answers)) or ("" if entry.lines else entry.media_type)
        parts.append(
            f"| `{entry.method} {entry.path}` | {_link(entry.body) if entry.body else ''} | {answers} | {', '.join(map(_link, entry.lines))} |"
        )
    parts += ["", "## Objects\n"]
    for model in _models():
        parts += _section(model)
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    print(page(), end="")
