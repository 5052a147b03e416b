"""A value that is there by an order of things which the type checker does not see.

As `assert value is not None`, but also where Python runs without assertions: what goes on without
the value would do it to something else. Pure.
"""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def known(value: T | None, why: str) -> T:
    """The value. Raises RuntimeError, a defect of ours, with `why` it should have been there."""
    if value is None:
        raise RuntimeError(f"a value is missing: {why}")
    return value
