"""Change files: written once, named by their checksum, and never read as something else."""

from __future__ import annotations

import re
import struct

import pytest

from duplexd.errors import DamageError
from duplexd.journal import change_file
from duplexd.journal.format import crc32c

MAPS = {1: b"first", 7: b"", 300: b"third"}


def test_what_is_packed_is_unpacked() -> None:
    name, data = change_file.pack(42, MAPS)
    assert change_file.unpack(name, data) == MAPS


def test_the_bytes_are_those_of_the_table() -> None:
    name, data = change_file.pack(42, {3: b"map"})
    body = struct.pack("<QIII", 42, 1, 3, 3) + b"map"
    assert data == b"DUPLEXCM" + struct.pack("<I", crc32c(body)) + body
    assert name == f"{42:016x}-{crc32c(body):08x}.maps"
    sizes = re.findall(r"^ +(\d+|n) +\S", str(change_file.__doc__), re.MULTILINE)
    assert sizes == ["8", "4", "8", "4", "4", "4", "n"]


def test_another_content_of_the_same_cut_has_another_name() -> None:
    assert change_file.pack(42, {1: b"a"}).name != change_file.pack(42, {1: b"b"}).name


def test_every_flipped_bit_is_noticed() -> None:
    name, data = change_file.pack(42, MAPS)
    for place in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(DamageError):
            change_file.unpack(name, bytes(damaged))


def test_every_shorter_file_is_noticed() -> None:
    name, data = change_file.pack(42, MAPS)
    for length in range(len(data)):
        with pytest.raises(DamageError):
            change_file.unpack(name, data[:length])


def test_a_file_under_the_name_of_another_is_noticed() -> None:
    other, (_, data) = change_file.pack(41, MAPS).name, change_file.pack(42, MAPS)
    with pytest.raises(DamageError):
        change_file.unpack(other, data)
