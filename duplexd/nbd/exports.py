"""Exports as the handshake describes them. Their bytes are the business of transmission."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from . import constants as c
from . import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

BLOCK_SIZES = c.BLOCK_BYTES_MIN, c.BLOCK_BYTES_PREFERRED, c.PAYLOAD_BYTES_ADVERTISED


def _no_bitmaps() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Export:
    """What the handshake says of an export: size in bytes and transmission flags, to which it adds
    those of what was negotiated. `refused`: why no client gets it now, in words for the client.
    `tls_only`: no client gets it without TLS. `bitmaps`: its dirty bitmaps by name, the newest
    first, and by which name each is listed; called when a client asks for contexts. `block_sizes`:
    minimum, preferred, and maximum payload, in bytes.
    """

    name: str
    size: int
    flags: int
    description: str = ""
    refused: str = ""
    tls_only: bool = False
    bitmaps: Callable[[], Mapping[str, str]] = _no_bitmaps
    block_sizes: tuple[int, int, int] = BLOCK_SIZES


class Exports(Protocol):
    """Where the handshake finds exports."""

    def find(self, name: str) -> Export | None:
        """The export of that name; "" is the default export."""

    def names(self) -> Iterable[str]:
        """Every name; LIST shows those that are found. At no cost: thousands of clients may ask."""


def not_there(name: str) -> str:
    """Why there is no such export, in words for the client."""
    if name:
        return f"no export {name!r}; LIST shows what there is"
    return "no export is the default one; ask for one by its name, LIST shows what there is"


def describe(export: Export, kinds: set[int]) -> list[bytes]:
    """Information replies: INFO_EXPORT always, the others if asked; unknown kinds are ignored."""
    answers = [m.info_export(export.size, export.flags)]
    if c.INFO_BLOCK_SIZE in kinds:
        answers.append(m.info_block_size(*export.block_sizes))
    if c.INFO_NAME in kinds:
        answers.append(m.info_text(c.INFO_NAME, export.name.encode()))
    if c.INFO_DESCRIPTION in kinds and export.description:
        answers.append(m.info_text(c.INFO_DESCRIPTION, m.short_text(export.description)))
    return answers
