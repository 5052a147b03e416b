"""The checkpoint file: as packed, or a clear error."""

from __future__ import annotations

import json
import re
import zlib

import pytest

from duplexd.errors import DamageError
from duplexd.journal import checkpoint_file as checkpoint
from duplexd.journal.format import crc32c

STATE = {"sequence": 7, "pairs": [{"id": 1, "name": "data"}], "boot": "b"}
PATH = "/state/checkpoint"


def test_a_checkpoint_is_unpacked_as_it_was_packed() -> None:
    assert checkpoint.unpack(checkpoint.pack(STATE), PATH) == {
        "version": checkpoint.VERSION,
        **STATE,
    }


def test_the_file_is_as_the_docstring_says() -> None:
    data = checkpoint.pack(STATE)
    assert f'"{data[:8].decode()}"' in str(checkpoint.__doc__)
    assert int.from_bytes(data[8:12], "little") == crc32c(data[12:])
    assert json.loads(zlib.decompress(data[12:]))["sequence"] == 7


def test_any_wrong_bit_is_damage_that_names_the_file() -> None:
    data = checkpoint.pack(STATE)
    for place in range(len(data) * 8):
        wrong = bytearray(data)
        wrong[place // 8] ^= 1 << place % 8
        with pytest.raises(DamageError, match=re.escape(PATH)):
            checkpoint.unpack(bytes(wrong), PATH)


def test_a_file_that_was_cut_short_is_damage() -> None:
    data = checkpoint.pack(STATE)
    for length in range(len(data)):
        with pytest.raises(DamageError, match="damaged"):
            checkpoint.unpack(data[:length], PATH)


def test_another_version_is_named() -> None:
    body = zlib.compress(json.dumps({**STATE, "version": 99}).encode())
    data = checkpoint.MAGIC + crc32c(body).to_bytes(4, "little") + body
    with pytest.raises(DamageError, match=r"another version.*99"):
        checkpoint.unpack(data, PATH)
