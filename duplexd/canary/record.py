"""The record that the dependent writers write, and the slot that each one goes to. Pure.

A record fills its block, so that a block with parts of two records is found by its check-sum. Slots
are reused round and round: a canary runs for years on one megabyte.

One record is one block of 4,096 bytes, little-endian:

| offset | size | field |
|---|---|---|
| 0 | 8 | magic `DUPLXREC` |
| 8 | 4 | CRC-32C of bytes 12 to 4,095 |
| 12 | 4 | writer, from 0 |
| 16 | 8 | number of the record in its writer's chain, from 1 |
| 24 | 4 | writer of the record it names as its dependency |
| 28 | 8 | number of that record; 0: it names none |
| 36 | 8 | epoch of the chain; 0 where there is only one |
| 44 | 4,052 | writer and number again and again, so that a mixture of two records shows |

A record depends on two others: its predecessor in its writer's chain (number - 1), and the one it
names. Both are of its own epoch; chains that begin again at number 1 have another epoch.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from fastcrc import crc32

RECORD_BYTES = 4096
MAGIC = b"DUPLXREC"
_HEAD = struct.Struct("<8sI")
_BODY = struct.Struct("<IQIQQ")
_FILL = struct.Struct("<IQ")
_FILL_BYTES = RECORD_BYTES - _HEAD.size - _BODY.size
_FILL_COUNT = -(-_FILL_BYTES // _FILL.size)
_EMPTY = bytes(RECORD_BYTES)


class Record(NamedTuple):
    """What one block says."""

    writer: int
    number: int
    named_writer: int
    named_number: int
    epoch: int = 0


class TornError(ValueError):
    """A block that is neither empty nor one whole record."""


def pack(record: Record) -> bytes:
    """The block of a record."""
    fill = (_FILL.pack(record.writer, record.number) * _FILL_COUNT)[:_FILL_BYTES]
    body = _BODY.pack(*record) + fill
    return _HEAD.pack(MAGIC, crc32.iscsi(body)) + body


def parse(block: bytes) -> Record | None:
    """The record of a block; None if it is empty. Raises TornError."""
    if block == _EMPTY:
        return None
    magic, checksum = _HEAD.unpack_from(block)
    if magic != MAGIC or crc32.iscsi(block[_HEAD.size :]) != checksum:
        raise TornError("the block is not one whole record")
    return Record(*_BODY.unpack_from(block, _HEAD.size))


class Place(NamedTuple):
    """A slot: volume (index) and offset in bytes."""

    volume: int
    offset: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Where each record goes: round the volumes, and back to the same slot after `period` records.

    A slot holds records of one writer only, with numbers a `period` apart, so it says exactly how
    far the chain came.
    """

    writers: int
    volumes: int
    slots: int  # of one writer on one volume

    @property
    def period(self) -> int:
        """Records of one writer until it comes back to the same slot."""
        return self.volumes * self.slots

    @property
    def volume_bytes(self) -> int:
        """What the slots need on each volume."""
        return self.writers * self.slots * RECORD_BYTES

    def place(self, writer: int, number: int) -> Place:
        """Where record `number` (from 1) of `writer` goes."""
        lap, step = divmod(number - 1, self.volumes)
        return Place(
            (writer + step) % self.volumes, (writer * self.slots + lap % self.slots) * RECORD_BYTES
        )
