"""What a JSON value has to look like, as checks that are put together. Pure.

A controller's answer is input: it may come from another version, or from a machine that somebody
else rules. A check raises ShapeError with the place in the answer. It is no model of pydantic,
because importing that takes duplexctl longer than most of its commands, and nothing is converted:
what passed is used as it came.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from duplexd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Check = Callable[[object, str], None]

WHOLE_MAX = 1 << 64  # what counts, or is a size: beyond it floats and formats fail
_SHOWN_CHARACTERS = 40


class ShapeError(ValueError):
    """A value is not what was expected: where, what it is, what it should be."""

    def __init__(self, where: str, value: object, expected: str) -> None:
        shown = "a list" if isinstance(value, list) else repr(value)
        shown = "an object" if isinstance(value, dict) else shown[:_SHOWN_CHARACTERS]
        super().__init__(f"{where or 'it'} is {shown}, expected {expected}")


def text(value: object, where: str) -> None:
    if not isinstance(value, str):
        raise ShapeError(where, value, "a text")


def flag(value: object, where: str) -> None:
    if not isinstance(value, bool):
        raise ShapeError(where, value, "true or false")


def whole(value: object, where: str) -> None:
    """A count, a size, a sequence number."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < WHOLE_MAX:
        raise ShapeError(where, value, "a whole number")


def number(value: object, where: str) -> None:
    """A time: what is not finite compares with nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= WHOLE_MAX:
        raise ShapeError(where, value, "a number")
    if value != value:  # noqa: PLR0124 - not a number
        raise ShapeError(where, value, "a number")


def matching(pattern: str, expected: str) -> Check:
    """A text of this pattern, whole."""
    compiled = re.compile(pattern)

    def check(value: object, where: str) -> None:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ShapeError(where, value, expected)

    return check


def one_of(*texts: str) -> Check:
    """One of these texts."""

    def check(value: object, where: str) -> None:
        if not isinstance(value, str) or value not in texts:
            raise ShapeError(where, value, "one of " + ", ".join(map(repr, texts)))

    return check


def maybe(inner: Check) -> Check:
    """That, or null."""

    def check(value: object, where: str) -> None:
        if value is not None:
            inner(value, where)

    return check


def each(inner: Check, length: int | None = None) -> Check:
    """A list of that, of this `length` if one is given."""

    def check(value: object, where: str) -> None:
        if not isinstance(value, list) or (length is not None and len(value) != length):
            raise ShapeError(where, value, "a list" if length is None else f"a list of {length}")
        for index, item in enumerate(value):
            inner(item, f"{where}.{index}")

    return check


def values(inner: Check) -> Check:
    """An object whose values, whatever their names, are that."""

    def check(value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ShapeError(where, value, "an object")
        for key, item in value.items():
            inner(item, f"{where}.{printable(key[:_SHOWN_CHARACTERS])}")

    return check


def fields(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these fields. It may have more: answers of later versions do."""
    may_have = optional or {}

    def check(value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ShapeError(where, value, "an object")
        for key, inner in required.items():
            if key not in value:
                raise ShapeError(f"{where}.{key}".lstrip("."), None, "a value")
            inner(value[key], f"{where}.{key}".lstrip("."))
        for key, inner in may_have.items():
            if key in value:
                inner(value[key], f"{where}.{key}".lstrip("."))

    return check
