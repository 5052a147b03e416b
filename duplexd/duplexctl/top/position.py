"""Where on the screens somebody is, and what a key does about it. Pure.

A position is the trail of what was opened (nothing: all of it; a group; a volume; a volume of a
group), what is selected, and the order of rows. The selection is a name, not the number of a row:
rows change places with every look, and Enter must open what was marked when it was pressed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

VOLUME, GROUP = "volume", "group"
SORTS = ("health", "name", "requests", "latency", "lag")
_PAGE_ROWS = 10


class Item(NamedTuple):
    """What can be opened."""

    kind: str
    name: str


class Position(NamedTuple):
    """`scrolled`: how many lines of the details of a volume are above the screen."""

    trail: tuple[Item, ...] = ()
    selected: Item | None = None
    scrolled: int = 0
    sort: str = SORTS[0]
    helping: bool = False
    leaving: bool = False

    @property
    def at(self) -> Item | None:
        """What is open; None for all of it."""
        return self.trail[-1] if self.trail else None


def marked(position: Position, items: Sequence[Item]) -> int:
    """The number of the selected row; the first one if it is no longer there."""
    return items.index(position.selected) if position.selected in items else 0


def press(position: Position, key: str, items: Sequence[Item]) -> Position:
    """What the key makes of it. `items`: the rows that can be selected, as they are shown. A key
    that means nothing changes nothing.
    """
    if key == "quit":
        return position._replace(leaving=True)
    if position.helping:  # any key ends it
        return position._replace(helping=False)
    action = _KEYS.get(key)
    return action(position, items) if action is not None else position


def _by(rows: int) -> Callable[[Position, Sequence[Item]], Position]:
    def move(position: Position, items: Sequence[Item]) -> Position:
        if not items:
            return position._replace(scrolled=max(0, position.scrolled + rows))
        at = min(max(0, marked(position, items) + rows), len(items) - 1)
        return position._replace(selected=items[at])

    return move


def _open(position: Position, items: Sequence[Item]) -> Position:
    if not items:
        return position
    item = items[marked(position, items)]
    return position._replace(trail=(*position.trail, item), selected=None, scrolled=0)


def _back(position: Position, _items: Sequence[Item]) -> Position:
    if not position.trail:
        return position
    *before, left = position.trail
    return position._replace(trail=tuple(before), selected=left, scrolled=0)


def _sort(position: Position, _items: Sequence[Item]) -> Position:
    following = SORTS[(SORTS.index(position.sort) + 1) % len(SORTS)]
    return position._replace(sort=following)


def _help(position: Position, _items: Sequence[Item]) -> Position:
    return position._replace(helping=True)


_KEYS: dict[str, Callable[[Position, Sequence[Item]], Position]] = {
    "up": _by(-1),
    "down": _by(1),
    "page up": _by(-_PAGE_ROWS),
    "page down": _by(_PAGE_ROWS),
    "home": _by(-(1 << 30)),
    "end": _by(1 << 30),
    "enter": _open,
    "back": _back,
    "sort": _sort,
    "help": _help,
}
