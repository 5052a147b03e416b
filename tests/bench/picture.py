"""The picture of docs/performance.md: bars of duplexd beside its peers, as SVG text. Pure.

Rates of different work have nothing in common, so each is drawn by that of nbdkit, which writes to
one file and mirrors nothing. What is longer than the axis ends with its figure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from tests.bench.rows import MIRROR, NBDKIT, OURS, QEMU_NBD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.rows import RowResult

COLOURS = {OURS: "#1f6feb", MIRROR: "#d29922", NBDKIT: "#8b949e", QEMU_NBD: "#c9d1d9"}
LABELS = {
    OURS: "duplexd: journal and two files",
    MIRROR: "qemu mirror: two files",
    NBDKIT: "nbdkit: one file",
    QEMU_NBD: "qemu-nbd: one file",
}
FONT = 'font-family="sans-serif" font-size="12"'
WIDTH, LEFT, RIGHT, TOP = 860, 300, 60, 66
BAR, GAP = 9, 12
AXIS_MAX = 4.0  # x nbdkit


def draw(results: Sequence[RowResult], origin: str) -> str:
    """Of those that were measured on nbdkit, too."""
    rows = [one for one in results if {OURS, NBDKIT} <= one["servers"].keys()]
    height = TOP + sum(_height(one) for one in rows) + 40
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        '<text x="12" y="22" font-size="15">Rate by that of nbdkit; more is better</text>',
        *_legend(),
        *_axis(height),
    ]
    top = TOP
    for one in rows:
        lines += _bars(one, top)
        top += _height(one)
    return "\n".join([*lines, _text(12, height - 12, origin, size=10), "</svg>", ""])


def _height(result: RowResult) -> int:
    return len(result["servers"]) * BAR + GAP


def _length(ratio: float) -> float:
    return min(ratio, AXIS_MAX) / AXIS_MAX * (WIDTH - LEFT - RIGHT)


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="#24292f">{escape(text)}</text>'
    )


def _legend() -> Iterator[str]:
    for number, (name, colour) in enumerate(COLOURS.items()):
        x = 12 + number * 212
        yield f'<rect x="{x}" y="36" width="12" height="12" fill="{colour}"/>'
        yield _text(x + 17, 46, LABELS[name], size=11)


def _axis(height: int) -> Iterator[str]:
    for ratio in range(int(AXIS_MAX) + 1):
        x = LEFT + _length(ratio)
        colour = "#57606a" if ratio == 1 else "#eaeef2"
        yield (
            f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{TOP - 6}" y2="{height - 36}" stroke="{colour}"/>'
        )
        yield _text(x, height - 24, f"{ratio} x", "middle", 10)


def _bars(result: RowResult, top: int) -> Iterator[str]:
    servers = result["servers"]
    base = servers[NBDKIT]["value"]["median"]
    yield _text(LEFT - 8, top + len(servers) * BAR / 2 + 4, result["row"], "end")
    for name, colour in COLOURS.items():
        if name not in servers:
            continue
        ratio = servers[name]["value"]["median"] / base
        length = _length(ratio)
        yield (
            f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR - 1}" fill="{colour}"/>'
        )
        if name in {OURS, MIRROR}:
            yield _text(LEFT + length + 4, top + BAR - 1, f"{ratio:.2f}", size=9)
        top += BAR
