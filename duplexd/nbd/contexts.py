"""Metadata contexts that an export has, and which of them a client's queries mean.

Every export has `base:allocation`. One that knows what changed since something earlier has a
`qemu:dirty-bitmap:NAME` for each such thing, named as QEMU names its bitmaps, because the backup
programs that read bitmaps know that namespace. `x-duplexd:unchanged:NAME` says the same as
`base:allocation` would of an image that has only what changed, and lies on that of the earlier cut:
where nothing changed there is a hole, whose content is unknown. Programs that copy skip those.

A bitmap may have several names, and there may be a thousand of them. So a query that names none
gets the newest, each by one of its names and in QEMU's namespace alone, and a full name is answered
in any case; the specification allows for that. (ovirt-imageio takes no bitmap if two are listed: a
second name would be one too many.) A client may select a few only, because each costs something in
every BLOCK_STATUS.
Source: NetworkBlockDevice/nbd, doc/proto.md, "Metadata querying"; QEMU, docs/interop/nbd.txt.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from .constants import (
    BITMAPS_LISTED_MAX,
    BITMAPS_SELECTED_MAX,
    CONTEXT_ALLOCATION,
    CONTEXT_DIRTY_BITMAP,
    CONTEXT_UNCHANGED,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ALLOCATION_ID, FIRST_BITMAP_ID = 1, 2  # what BLOCK_STATUS calls them, on one connection


def bitmap_of(context: str) -> str | None:
    """The name of the bitmap that a context is about, if it is about one."""
    for prefix in (CONTEXT_DIRTY_BITMAP, CONTEXT_UNCHANGED):
        if context.startswith(prefix):
            return context.removeprefix(prefix)
    return None


def listed(queries: Sequence[str], bitmaps: Mapping[str, str]) -> tuple[str, ...]:
    """For LIST_META_CONTEXT: all if there is no query; a namespace alone stands for all in it.
    `bitmaps`: see `Export`.
    """
    found: dict[str, None] = {}
    if not queries or {CONTEXT_ALLOCATION, "base:"} & set(queries):
        found[CONTEXT_ALLOCATION] = None
    if not queries or {CONTEXT_DIRTY_BITMAP, "qemu:"} & set(queries):
        newest = islice(dict.fromkeys(bitmaps.values()), BITMAPS_LISTED_MAX)
        found |= dict.fromkeys(CONTEXT_DIRTY_BITMAP + name for name in newest)
    return tuple(found | dict.fromkeys(_named(queries, bitmaps)))


def selected(queries: Sequence[str], bitmaps: Mapping[str, str]) -> tuple[tuple[int, str], ...]:
    """For SET_META_CONTEXT: by full name only, each once, in the order of the queries; unknown
    names select nothing, and neither do bitmaps beyond the maximum.
    """
    named = _named(queries, bitmaps)[:BITMAPS_SELECTED_MAX]
    chosen = [(ALLOCATION_ID, CONTEXT_ALLOCATION)] if CONTEXT_ALLOCATION in queries else []
    return (*chosen, *enumerate(named, FIRST_BITMAP_ID))


def _named(queries: Sequence[str], bitmaps: Mapping[str, str]) -> list[str]:
    """The contexts of bitmaps that are asked for by their full names, each once."""
    return [query for query in dict.fromkeys(queries) if bitmap_of(query) in bitmaps]
