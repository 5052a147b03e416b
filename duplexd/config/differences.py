"""What differs between two configurations, key by key.

A reload names each value that it changed, and a check each value that a reload would change, so
that an edit that did something else than was meant is seen. The keys are those of the file, and the
values are written as the file writes them: the reader compares both. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

from duplexd.net.address import TcpAddress
from duplexd.net.allow import Entry
from duplexd.units import toml, toml_duration, toml_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.config.daemon_file import Config

_MODES = {"image_mode", "mode"}
_SIZES = {"clone_limit", "copy_rate", "journal_size", "rate", "size"}
_DURATIONS = {
    "cut_age_max", "delay", "drill_age_max", "every", "hook_timeout", "suspended_max",
}  # fmt: skip


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
        yield f"{key}: {_said('was', key, old)}, {_said('is', key, new)}"
        return
    for name in dict.fromkeys([*before, *after]):
        yield from _between(f"{key}.{name}", before.get(name), after.get(name))


def _fields(value: object) -> dict[str, object] | None:
    if isinstance(value, BaseModel):
        return dict(value)
    return value if isinstance(value, dict) else None


def _said(verb: str, key: str, value: object) -> str:
    if value is None:
        return f"{verb} not set"
    if isinstance(value, BaseModel):
        return f"{verb} set"
    return f"{verb} {value_in_file(key, value)}"


def value_in_file(key: str, value: object) -> str:
    """A value as the configuration file has it, at the dotted `key`."""
    if isinstance(value, list):
        return f"[{', '.join(value_in_file(key, each) for each in value)}]"
    if isinstance(value, BaseModel):  # one of a list of tables
        said = {
            name: each for name, each in value if each != type(value).model_fields[name].default
        }
        return f"{{ {', '.join(f'{name} = {value_in_file(name, said[name])}' for name in said)} }}"
    if isinstance(value, Entry):
        return toml(f"{value.kind}:{value.value}")
    if isinstance(value, TcpAddress) and key == "control.tls.listen":
        return toml(value.authority)
    last = key.rpartition(".")[2]
    if isinstance(value, int) and last in _MODES:
        return toml(f"{value:04o}")
    if isinstance(value, int) and last in _SIZES:
        return toml_size(value)
    if isinstance(value, float) and last in _DURATIONS:
        return toml_duration(value)
    return toml(value)
