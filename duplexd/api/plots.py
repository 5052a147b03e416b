"""Small plots as SVG, drawn here so that a page needs no script: two lines over the same time.

Attributes only, no `style`: a Content-Security-Policy that allows no inline style allows these.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WIDTH, HEIGHT = 240, 48  # of the drawing; the page stretches it
POINTS_MAX = 120  # of a line: more cannot be seen, and would be sent


def peak(*lines: Sequence[float]) -> float:
    """The largest value; 0 if there is none."""
    return max((value for line in lines for value in line if not math.isnan(value)), default=0.0)


def last(line: Sequence[float]) -> float:
    """The newest value; NaN if there is none."""
    return line[-1] if line else math.nan


def plot(title: str, lines: Sequence[tuple[str, Sequence[float]]]) -> str:
    """`lines` are the class and the values of each; all of one length, scaled to the largest.
    `title` is for who does not see it, and safe in HTML.
    """
    most = peak(*(values for _, values in lines))
    paths = "".join(
        f'<path class="{name}" d="{drawn}"/>'
        for name, values in lines
        if (drawn := "".join(_path(thinned(values), most)))
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img"'
        f' aria-label="{title}">{paths}</svg>'
    )


def thinned(values: Sequence[float]) -> list[float]:
    """At most `POINTS_MAX`, each the largest of those it stands for: no peak is lost."""
    step = -(-len(values) // POINTS_MAX) or 1
    found = []
    for start in range(0, len(values), step):
        some = [value for value in values[start : start + step] if not math.isnan(value)]
        found.append(max(some, default=math.nan))
    return found


def _path(values: Sequence[float], most: float) -> Iterator[str]:
    """Interrupted where there is no value; a value alone is a dot."""
    across, up, drawing = WIDTH / max(1, len(values) - 1), (HEIGHT - 2) / (most or 1.0), False
    for place, value in enumerate(values):
        if math.isnan(value):
            drawing = False
            continue
        x, y = round(place * across), round(HEIGHT - 1 - value * up)
        yield f"L{x} {y}" if drawing else f"M{x} {y}h0"
        drawing = True
