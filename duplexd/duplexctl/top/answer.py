"""What `top --json` prints: a frame with its figures as they are. Pure.

docs/duplexctl-json.md has the fields; a test compares them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duplexd.duplexctl.top.overview import Overview
    from duplexd.json_object import Json

_LEFT_OUT = {"cuts_of", "details", "other", "trusted", "silent"}  # of them there is no more to say


def answer(seen: Overview) -> Json:
    """One object."""
    found = _plain(seen)
    return {**found, "well": seen.well} if isinstance(found, dict) else {}


def _plain(value: object) -> object:
    """Named tuples as objects; what is not a finite number is null, as JSON has no other word."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        fields = value._asdict().items()
        return {name: _plain(each) for name, each in fields if name not in _LEFT_OUT}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
