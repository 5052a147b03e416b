"""Sizes as people write them: binary units, exact, no floats.

A size that is rounded is a volume of another size, so a fraction is accepted only where it comes
out as whole bytes. Decimal units (MB) are refused rather than guessed at. Pure.
"""

from __future__ import annotations

import re

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_FACTORS = {
    "": 1,
    "B": 1,
    "KIB": KIB,
    "MIB": MIB,
    "GIB": GIB,
    "TIB": TIB,
    "K": KIB,
    "M": MIB,
    "G": GIB,
    "T": TIB,
}
_SIZE = re.compile(r"\s*([0-9]{1,20})(?:\.([0-9]{1,20}))?\s*([A-Za-z]*)\s*")


def parse_size(text: object) -> int:
    """Bytes of `"64MiB"`, `"1.5GiB"`, `"4096"` or an integer. Raises ValueError with an example."""
    if isinstance(text, bool) or not isinstance(text, int | str):
        raise ValueError(f'{text!r} is not a size; write for example "64MiB" or 67108864')
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text)
    factor = _FACTORS.get(match[3].upper()) if match else None
    if match is None or factor is None:
        raise ValueError(
            f'{text!r} is not a size; write for example "64MiB", "10GiB" or a number of bytes'
        )
    fraction = match[2] or ""
    scale: int = 10 ** len(fraction)
    size, rest = divmod(int(match[1] + fraction) * factor, scale)
    if rest:
        raise ValueError(
            f"{text!r} is not a whole number of bytes; write for example {size} or {size + 1}"
        )
    return size


def format_size(size_bytes: int) -> str:
    """`64.0 MiB`: one decimal and a binary unit, for display."""
    if abs(size_bytes) < KIB:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if abs(round(value, 1)) < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"
