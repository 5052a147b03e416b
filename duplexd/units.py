"""Sizes as people write them. Pure."""

from __future__ import annotations

import re

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_FACTORS = {"": 1, "B": 1, "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": TIB, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: int | str) -> int:
    """Bytes of `"64MiB"`, `"10GiB"`, `"4096"` or an integer. Raises ValueError that says what would be right."""
    if isinstance(text, bool) or not isinstance(text, int | str):
        raise ValueError(f'{text!r} is not a size; write for example "64MiB" or 67108864')
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text)
    factor = _FACTORS.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise ValueError(f'{text!r} is not a size; write for example "64MiB", "10GiB" or a number of bytes')
    number = float(match[1]) * factor if "." in match[1] else int(match[1]) * factor
    if number != int(number):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(number)


def format_size(size_bytes: int) -> str:
    """`64.0 MiB`: three digits and a binary unit, for people."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{int(value)} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
