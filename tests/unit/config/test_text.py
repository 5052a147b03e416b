from __future__ import annotations

import codecs
import re

import pytest

from duplexd.config.text import decode
from duplexd.errors import ConfigurationError


def test_text_is_text() -> None:
    assert decode('name = "Größe"'.encode(), "f") == 'name = "Größe"'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (codecs.BOM_UTF8 + b"[nbd]", "f: begins with a byte order mark; save the file as UTF-8"),
        ("[nbd]".encode("utf-16"), "f: UTF-16; save the file as UTF-8 text"),
        (b'[nbd]\n# Gr\xf6\xdfe\nname = "x"', "f: line 2: not UTF-8; save the file as UTF-8 text"),
    ],
    ids=["a mark", "UTF-16", "Latin-1"],
)
def test_another_encoding_is_named(data: bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        decode(data, "f")
