"""Fields of markers that JSON has no type for: change maps, and maps of volumes by number. Pure.

A volume's number is a decimal string where it is a key; a change map is base64 of its bytes.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING

from duplexd.core.change_map import ChangeMap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def pack_map(changed: ChangeMap) -> str:
    """A change map as text."""
    return b64encode(changed.to_bytes()).decode()


def unpack_map(text: str) -> ChangeMap:
    """A change map from text. Raises ValueError."""
    return ChangeMap.from_bytes(b64decode(text))


def pack_maps(maps: Mapping[int, ChangeMap]) -> dict[str, str]:
    """Change maps by volume."""
    return {str(number): pack_map(changed) for number, changed in maps.items()}


def unpack_maps(fields: Mapping[str, str]) -> dict[int, ChangeMap]:
    """The reverse of `pack_maps`. Raises ValueError."""
    return {int(number): unpack_map(text) for number, text in fields.items()}


def numbers(values: Sequence[int]) -> list[int]:
    """Numbers of volumes, or of regions. Raises ValueError, TypeError."""
    return [int(value) for value in values]
