"""What differs between two configurations, key by key.

A reload names each value that it changed, and a check each value that a reload would change, so
that an edit that did something else than was meant is seen. The keys are those of the file. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.config.daemon_file import Config


def differences(old: Config, new: Config) -> list[str]:
    """One line for each: `volumes.data.mode: was 'sync', is 'async'`."""
    return [
        line
        for table in (
            "controller",
            "nbd",
            "control",
            "metrics",
            "health",
            "scrub",
            "volumes",
            "groups",
        )
        for line in _between(table, getattr(old, table), getattr(new, table))
    ]


def _between(key: str, old: object, new: object) -> Iterator[str]:
    if old == new:
        return
    before, after = _fields(old), _fields(new)
    if before is None or after is None:
        yield f"{key}: {_said('was', old)}, {_said('is', new)}"
        return
    for name in dict.fromkeys([*before, *after]):
        yield from _between(f"{key}.{name}", before.get(name), after.get(name))


def _fields(value: object) -> dict[str, object] | None:
    if isinstance(value, BaseModel):
        return dict(value)
    return value if isinstance(value, dict) else None


def _said(verb: str, value: object) -> str:
    if value is None:
        return f"{verb} not set"
    if isinstance(value, BaseModel):
        return f"{verb} set"
    if isinstance(value, list):
        return f"{verb} {[str(each) for each in value]}"
    return f"{verb} {str(value)!r}"
