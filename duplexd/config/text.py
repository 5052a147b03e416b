"""From the bytes of a configuration file to its text, or a plain message about its encoding.

An editor that saves another encoding, or a byte order mark before the first line, is a mistake that
nobody sees on the screen: the TOML reader would call line 1 wrong, which looks right.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from duplexd.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def decode(data: bytes, path: str | Path) -> str:
    """The text of a file. Raises ConfigurationError."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigurationError(f"{path}: UTF-16; save the file as UTF-8 text")
    if data.startswith(codecs.BOM_UTF8):
        raise ConfigurationError(
            f"{path}: begins with a byte order mark; save the file as UTF-8 without one"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{path}: line {line}: not UTF-8; save the file as UTF-8 text"
        ) from None
