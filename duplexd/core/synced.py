"""The marker that says nothing but what every record says: what is before it is durable.

The field `synced` of a record is the number known to be durable when it was written. A broken
record below that number is damage, above it a torn tail. So the last synced records need some
record behind them, and this is the one that is written if there is no other (`engine/sync_claim`).
It has no fields: a number of its own would be a second truth beside that of its record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from duplexd.json_object import Json


class Synced(NamedTuple):
    """It changes no state."""

    def pack(self) -> Json:
        return {"m": "synced"}

    @classmethod
    def unpack(cls, _fields: Json) -> Synced:
        return cls()
