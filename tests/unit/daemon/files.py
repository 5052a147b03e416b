"""A small configuration for tests of the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.config.load import parse

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.config.daemon_file import Config


def config_text(more: str = "") -> str:
    """The file; `more` is TOML of [controller]."""
    return (
        f'[controller]\nname = "a"\nstate_dir = "state"\n{more}\n[nbd]\nlisten = '
        '["unix:n"]\n[control]\nsocket = "c"\n[volumes.v]\nsize = 4096\nprimary = "p"\n'
    )


def config(directory: Path, more: str = "", **replace: str) -> Config:
    """One volume `v` without a secondary; `more` is TOML of [controller], `replace` of quoted
    values.
    """
    text = config_text(more)
    for old, new in replace.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    return parse(text, directory / "f.toml")
