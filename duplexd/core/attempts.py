"""When to try again what may fail again: pauses that grow, and are short again after a quiet time.

An attempt on a disk that is still broken is not free: it may copy gigabytes before it fails, and
each failure is another cut and another event. So the pause doubles with each attempt. It starts
anew only after it was good for a while, because a disk that fails under load looks well in between.
Pure: states and time are parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

WANTED, UNDER_WAY, GOOD = "wanted", "under way", "good"  # of what is to be tried, or was


class _Entry:
    __slots__ = ("due", "good_since", "pause_s", "tried")

    def __init__(self, pause_s: float, now: float) -> None:
        self.pause_s = pause_s
        self.due = now + pause_s
        self.tried = False
        self.good_since: float | None = None


class Attempts:
    """Attempts by name: the first after `first_s`, the next after pauses that double up to
    `longest_s`; from `first_s` again after `calm_s` of GOOD.
    """

    def __init__(self, first_s: float, longest_s: float, calm_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._calm_s = calm_s
        self._entries: dict[str, _Entry] = {}

    def due(self, states: Mapping[str, str], now: float) -> list[str]:
        """Those of `states` that are WANTED and to be tried now; the caller tries each before it
        asks again. What is not in `states` is forgotten.
        """
        for name in self._entries.keys() - states.keys():
            del self._entries[name]
        return [name for name, state in states.items() if self._is_due(name, state, now)]

    def pause_s(self, name: str) -> float:
        """The pause before the next attempt, should this one fail."""
        entry = self._entries.get(name)
        return self._first_s if entry is None else self._longer(entry)

    def _longer(self, entry: _Entry) -> float:
        return min(entry.pause_s * 2, self._longest_s)

    def _is_due(self, name: str, state: str, now: float) -> bool:
        entry = self._entries.get(name)
        if entry is not None and state == GOOD:
            self._was_good(name, entry, now)
        if state != WANTED:
            return False
        if entry is None:
            entry = self._entries[name] = _Entry(self._first_s, now)
        elif entry.tried:  # it did not help
            entry.pause_s = self._longer(entry)
            entry.due, entry.tried = now + entry.pause_s, False
        entry.good_since = None
        entry.tried = now >= entry.due
        return entry.tried

    def _was_good(self, name: str, entry: _Entry, now: float) -> None:
        if entry.good_since is None:
            entry.good_since = now
        elif now - entry.good_since >= self._calm_s:
            del self._entries[name]
