"""Which volumes of a command are left out, and why.

A command names volumes or a group, and one of them may be in no state for it: its image is missing,
or is another one. Whether the others are to wait for that is for the caller to say. Either way it
learns of each that was refused: nothing is left half done without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.core.pair import Pair
    from duplexd.json_object import Json


class Refusals:
    """Of one command. `partial`: the others are done nevertheless."""

    def __init__(self, partial: bool = False) -> None:
        self._partial = partial
        self._why: dict[Pair, str] = {}

    def add(self, pair: Pair, why: str) -> None:
        """This one is left out. The first reason counts."""
        self._why.setdefault(pair, why)

    def left(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Those that are not refused. Raises WrongStateError if that is none of them, or not all
        and the command is not `partial`.
        """
        others = [pair for pair in pairs if pair not in self._why]
        if self._why and not (self._partial and others):
            why = next(iter(self._why.values()))
            more = f" (and {len(self._why) - 1} more)" if len(self._why) > 1 else ""
            raise WrongStateError(f"{why}{more}; nothing was started")
        return others

    def show(self) -> list[Json]:
        """As an answer has them."""
        return [{"name": pair.name, "error": why} for pair, why in self._why.items()]
