"""The checkpoint file: what the journal said up to a number, so that its older part may go.

One file, replaced atomically: 8 bytes magic "DUPLEXCP", CRC-32C of the rest, then JSON compressed
with zlib.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

from duplexd.errors import DamageError
from duplexd.journal.format import crc32c

MAGIC = b"DUPLEXCP"
VERSION = 2
VERSIONS_READ = (1, 2)
_HEAD = struct.Struct("<8sI")


def pack(state: dict[str, Any]) -> bytes:
    """The file's content."""
    body = zlib.compress(
        json.dumps({"version": VERSION, **state}, separators=(",", ":")).encode(), 1
    )
    return _HEAD.pack(MAGIC, crc32c(body)) + body


def unpack(data: bytes, path: str) -> dict[str, Any]:
    """The state. Raises DamageError."""
    if len(data) > _HEAD.size:
        magic, crc = _HEAD.unpack_from(data)
        body = data[_HEAD.size :]
        if magic == MAGIC and crc == crc32c(body):
            state = json.loads(zlib.decompress(body))
            if state.get("version") in VERSIONS_READ:
                return dict(state)
            raise DamageError(
                f"{path}: written by another version of duplexd (format {state.get('version')}); run that version"
            )
    raise DamageError(
        f"{path}: the checkpoint is damaged; pair states and change maps are at risk. "
        "Restore it from a copy, or move the state directory away and copy the pairs anew"
    )
