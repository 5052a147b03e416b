"""What options carry, taken apart; None where the lengths do not add up to the data.

Every length comes from a client, so each is compared with what is there before it is used. Nothing
here knows what was negotiated: that is `handshake.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import constants as c
from . import messages as m


@dataclass(frozen=True)
class ContextQueries:
    """LIST_META_CONTEXT or SET_META_CONTEXT. `count` is what the client announced; `queries` is
    empty if that is over CONTEXT_QUERIES_MAX.
    """

    export: str
    count: int
    queries: tuple[str, ...]


def decode_name(data: bytes) -> str | None:
    """A string of a client; None if it is too long, not UTF-8 or contains NUL."""
    if len(data) > c.STRING_BYTES_MAX or 0 in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def parse_go(data: bytes) -> tuple[str, set[int]] | None:
    """Name and kinds of information of GO or INFO."""
    name, at = _string(data, 0)
    if name is None or at + m.U16.size > len(data):
        return None
    count: int = m.U16.unpack_from(data, at)[0]
    kinds = data[at + m.U16.size :]
    if len(kinds) != count * m.U16.size:
        return None
    return name, {kind for (kind,) in m.U16.iter_unpack(kinds)}


def parse_queries(data: bytes) -> ContextQueries | None:
    """The export, and queries for its metadata contexts."""
    export, at = _string(data, 0)
    if export is None or at + m.U32.size > len(data):
        return None
    count: int = m.U32.unpack_from(data, at)[0]
    at += m.U32.size
    if count > c.CONTEXT_QUERIES_MAX:
        return ContextQueries(export, count, ())
    queries: list[str] = []
    for _ in range(count):
        query, at = _string(data, at)
        if query is None:
            return None
        queries.append(query)
    return ContextQueries(export, count, tuple(queries)) if at == len(data) else None


def _string(data: bytes, at: int) -> tuple[str | None, int]:
    """The string behind a length of 32 bits, and where it ends."""
    start = at + m.U32.size
    if start > len(data):
        return None, at
    end: int = start + m.U32.unpack_from(data, at)[0]
    if end > len(data):
        return None, at
    return decode_name(data[start:end]), end
