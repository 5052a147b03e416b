"""A change file: what changed in each volume of a cut, since the cut of that volume before it.

One file for each cut, not for each volume: a cut of a thousand volumes then costs one sync. It is
written once, whole, and never changed; its name has its checksum, so a name that a checkpoint has
is never that of other bytes, even where a power cut takes back a cut whose number is used again.

    bytes   what
    8       magic "DUPLEXCM"
    4       CRC-32C of all that follows
    8       number of the cut
    4       how many volumes follow; of each:
              4   number of the volume
              4   length of its map
              n   the map, as `core/change_map.py` packs it

All numbers are little-endian.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from duplexd.errors import DamageError
from duplexd.journal.format import crc32c

if TYPE_CHECKING:
    from collections.abc import Mapping

MAGIC = b"DUPLEXCM"
SUFFIX = ".maps"
_HEAD = struct.Struct("<8sI")
_CUT = struct.Struct("<QI")
_VOLUME = struct.Struct("<II")


class Packed(NamedTuple):
    """A file that is to be written."""

    name: str
    data: bytes


def pack(sequence: int, maps: Mapping[int, bytes]) -> Packed:
    """The file of the cut at a number, with the maps of its volumes."""
    parts = [_CUT.pack(sequence, len(maps))]
    for volume in sorted(maps):
        parts += (_VOLUME.pack(volume, len(maps[volume])), maps[volume])
    body = b"".join(parts)
    crc = crc32c(body)
    return Packed(f"{sequence:016x}-{crc:08x}{SUFFIX}", _HEAD.pack(MAGIC, crc) + body)


def unpack(name: str, data: bytes) -> dict[int, bytes]:
    """The maps by volume, of the file of that name. Raises DamageError for any other bytes."""
    if len(data) < _HEAD.size + _CUT.size:
        raise DamageError(f"{name}: shorter than a change file")
    magic, crc = _HEAD.unpack_from(data)
    sequence, count = _CUT.unpack_from(data, _HEAD.size)
    expected = f"{sequence:016x}-{crc:08x}{SUFFIX}"
    if magic != MAGIC or crc32c(memoryview(data)[_HEAD.size :]) != crc or name != expected:
        raise DamageError(f"{name}: not a change file, or damaged")
    maps: dict[int, bytes] = {}
    place = _HEAD.size + _CUT.size
    for _ in range(count):
        volume, length = _VOLUME.unpack_from(data, place)
        place += _VOLUME.size
        maps[volume] = data[place : place + length]
        place += length
    return maps
