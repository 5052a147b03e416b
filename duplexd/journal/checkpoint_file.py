"""The checkpoint file: the state of the ledger up to one number, so that older segments may go.

It is one file that is replaced atomically, never a second log: a checkpoint is either the old or
the new one, whole, and recovery has nothing to decide. The content is JSON, because it is written
every few seconds at most and must be readable by later versions; a thousand change maps make it
large, so it is compressed, and a check-sum covers the compressed bytes, so that damage is found
before the decompressor sees it.

    8 bytes magic "DUPLEXCP", CRC-32C of the rest, then JSON compressed with zlib.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING

from duplexd.errors import DamageError
from duplexd.journal.format import crc32c

if TYPE_CHECKING:
    from duplexd.json_object import Json

MAGIC = b"DUPLEXCP"
VERSION = 3
VERSIONS_READ = (1, 2, 3)
_HEAD = struct.Struct("<8sI")


def pack(state: Json) -> bytes:
    """The file's content."""
    body = zlib.compress(
        json.dumps({"version": VERSION, **state}, separators=(",", ":")).encode(), 1
    )
    return _HEAD.pack(MAGIC, crc32c(body)) + body


def unpack(data: bytes, path: str) -> Json:
    """The state. Raises DamageError."""
    if len(data) > _HEAD.size:
        magic, crc = _HEAD.unpack_from(data)
        body = data[_HEAD.size :]
        if magic == MAGIC and crc == crc32c(body):
            state = json.loads(zlib.decompress(body))
            if state.get("version") in VERSIONS_READ:
                return dict(state)
            raise DamageError(
                f"{path}: written by another version of duplexd (format {state.get('version')});"
                " run that version"
            )
    raise DamageError(
        f"{path}: the checkpoint is damaged; pair states and change maps are at risk. "
        "Restore it from a copy, or move the state directory away and copy the pairs anew"
    )
