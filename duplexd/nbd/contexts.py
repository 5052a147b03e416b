"""Metadata contexts that exist, and which of them a client's queries mean.

One namespace, `base:`, with one context. A further one is a line in `CONTEXTS`, if its queries are
plain names; its number is what BLOCK_STATUS replies carry, so it stays for as long as a connection.
Source: NetworkBlockDevice/nbd, doc/proto.md, "Metadata querying".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.nbd.constants import CONTEXT_ALLOCATION

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTEXTS: tuple[tuple[int, str], ...] = ((1, CONTEXT_ALLOCATION),)


def listed(queries: Sequence[str]) -> tuple[tuple[int, str], ...]:
    """For LIST_META_CONTEXT: all if there is no query; a namespace alone stands for all in it."""
    if not queries:
        return CONTEXTS
    return tuple(
        (number, name)
        for number, name in CONTEXTS
        if name in queries or name[: name.index(":") + 1] in queries
    )


def selected(queries: Sequence[str]) -> tuple[tuple[int, str], ...]:
    """For SET_META_CONTEXT: by full name only, each once; unknown names select nothing."""
    return tuple((number, name) for number, name in CONTEXTS if name in queries)
