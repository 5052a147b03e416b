"""How a mistake in a configuration file is reported.

pydantic describes mistakes for programmers: a tuple for the place, a type code for the kind. The
reader here has a file with keys and no schema. So each mistake becomes one line: the key as it is
written in the file, what is wrong, and an example that would be right, taken from the field itself.
"""

from __future__ import annotations

import difflib
from types import UnionType
from typing import TYPE_CHECKING, Union, get_args, get_origin

from pydantic import BaseModel

from duplexd.units import toml

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_CHOICES_SHOWN_MAX = 12
_EXPECTED = {
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "bool_type": "true or false",
    "literal_error": "one of the choices",
}


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """`dotted.key: what is wrong; what was expected`, for each mistake that pydantic found in
    `model`.
    """
    return [f"{_dotted(detail['loc'])}: {_reason(detail, model)}" for detail in error.errors()]


def did_you_mean(word: str, choices: list[str]) -> str:
    """`; did you mean ...?`, or the choices; empty if there are none."""
    if close := difflib.get_close_matches(word, choices, 1, 0.5):
        return f"; did you mean {close[0]!r}?"
    if not choices:
        return ""
    more = " ..." if len(choices) > _CHOICES_SHOWN_MAX else ""
    return f"; expected one of: {', '.join(choices[:_CHOICES_SHOWN_MAX])}{more}"


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "[key]":
            text += f".{part}" if text else part
    return text


def _reason(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind, key, value = detail["type"], str(detail["loc"][-1]), detail["input"]
    if kind == "value_error":  # raised by a check of our own, which says all of it
        return str(detail["ctx"]["error"])
    owner = _model_at(model, detail["loc"][:-1])
    if kind == "extra_forbidden":
        keys = [name for name in owner.model_fields if name != "source"] if owner else []
        return f"unknown key{did_you_mean(key, keys)}"
    if kind in {"too_short", "string_too_short"}:
        return f"is empty; {_example(owner, key)}"
    if kind == "missing":
        return f"is missing; {_example(owner, key)}"
    return f"{toml(value)} is not {_EXPECTED.get(kind, 'valid here')}; {_example(owner, key)}"


def _example(owner: type[BaseModel] | None, key: str) -> str:
    field = owner.model_fields.get(key) if owner else None
    if field is None:
        return "see configs/duplexd.toml"
    if not field.examples:
        return f"write a table [{key}]"
    choices = get_args(field.annotation) if get_origin(field.annotation) is not None else ()
    texts = [f'"{choice}"' for choice in choices if isinstance(choice, str)] or field.examples
    written = " or ".join(f"{key} = {text}" for text in texts)
    return f"write {written}" if len(texts) > 1 else f"write for example {written}"


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The model that the table at `location` is checked with."""
    current: object = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = _table(field.annotation) if field else None
        elif get_origin(current) is dict:
            current = get_args(current)[1]
        else:
            return None
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _table(annotation: object) -> object:
    """What the table is in `table | None`; anything else as it is."""
    return get_args(annotation)[0] if get_origin(annotation) in {UnionType, Union} else annotation
