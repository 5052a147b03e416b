"""Sizes, times and other values as people write them: binary units, exact, no floats.

A size that is rounded is a volume of another size, so a fraction is accepted only where it comes
out as whole bytes. Decimal units (MB) are refused rather than guessed at. Pure.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

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


def toml(value: object) -> str:
    """A value as a TOML file writes it, for a message about the file: `true`, `'text'`, `[1, 2]`.

    What has no form of its own there, an address or a path, is its text.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        fields = ", ".join(f"{key} = {toml(each)}" for key, each in value.items())
        return f"{{ {fields} }}" if fields else "{}"
    return repr(str(value))


def toml_size(size_bytes: int) -> str:
    """`'64MiB'`, exactly; bytes where no unit fits."""
    for unit, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size_bytes and size_bytes % factor == 0:
            return toml(f"{size_bytes // factor}{unit}")
    return str(size_bytes)


def parse_size(text: object) -> int:
    """Bytes of `"64MiB"`, `"1.5GiB"`, `"4096"` or an integer. Raises ValueError with an example."""
    if isinstance(text, bool) or not isinstance(text, int | str):
        raise ValueError(f'{toml(text)} is not a size; write for example "64MiB" or 67108864')
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text)
    factor = _FACTORS.get(match[3].upper()) if match else None
    if match is None or factor is None:
        raise ValueError(
            f'{toml(text)} is not a size; write for example "64MiB", "10GiB" or a number of bytes'
        )
    fraction = match[2] or ""
    scale: int = 10 ** len(fraction)
    size, rest = divmod(int(match[1] + fraction) * factor, scale)
    if rest:
        raise ValueError(
            f"{toml(text)} is not a whole number of bytes; write for example {size} or {size + 1}"
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


_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([smhdw]?)\s*")


def parse_duration(text: object) -> float:
    """Seconds of `"90s"`, `"30m"`, `"8h"`, `"7d"`, `"2w"` or a number. Raises ValueError."""
    match = None
    if isinstance(text, int | float) and not isinstance(text, bool):
        match = _DURATION.fullmatch(f"{text:f}" if isinstance(text, float) else str(text))
    elif isinstance(text, str):
        match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(
            f'{toml(text)} is not a time; write for example "90m", "8h", "7d" or'
            " a number of seconds"
        )
    return float(match[1]) * _SECONDS[match[2]]


def toml_duration(seconds: float) -> str:
    """`'8h'`, exactly; seconds where no unit fits."""
    for unit, factor in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= factor and seconds % factor == 0:
            return toml(f"{seconds / factor:.0f}{unit}")
    return toml(seconds)


def format_time(seconds: float) -> str:
    """`2026-11-23T14:02:07.250Z`, for display."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def format_duration(seconds: float) -> str:
    """`2 h`, `36 h`, `3 days`: one unit, rounded down, for display."""
    whole = max(0, int(seconds))
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if whole >= 2 * size:
            return f"{whole // size} {name}"
    return f"{whole} s"
