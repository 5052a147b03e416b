"""One BLOCK_STATUS: what the backend says of each context that it is about, one after the other.

What the image says of holes and what changed since a cut come from different places, and each has
to be waited for. The extents of all bitmaps together are bounded, so that a client which selected
many costs no more than one that selected one: it gets fewer of each, and asks on from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.nbd.constants import CMD_FLAG_REQ_ONE, CONTEXT_ALLOCATION, CONTEXT_UNCHANGED
from duplexd.nbd.contexts import bitmap_of
from duplexd.nbd.extents import ALLOCATION_STATES, BITMAP_STATES, UNCHANGED_STATES, statuses

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.backend import Backend, Extent, Volume
    from duplexd.nbd.extents import Status
    from duplexd.nbd.transmission import Request


class StatusQuery:
    """Of a request that is about these contexts, (id, name) each, at least one. `begin` asks;
    `done(query)` is called once, when `found` has the states of each context.
    """

    __slots__ = (
        "_backend", "_contexts", "_done", "_each_max", "_length", "_offset", "_one", "_volume",
        "found",
    )  # fmt: skip

    def __init__(
        self,
        backend: Backend,
        volume: Volume,
        request: Request,
        contexts: Sequence[tuple[int, str]],
        bitmap_extents_max: int,
        done: Callable[[StatusQuery], None],
    ) -> None:
        """`bitmap_extents_max`: of all bitmaps together."""
        flags, _command, _cookie, offset, length, _payload = request
        self.found: list[tuple[int, list[Status]]] = []
        self._backend, self._volume = backend, volume
        self._offset, self._length = offset, length
        self._one = flags & CMD_FLAG_REQ_ONE != 0
        self._contexts = contexts
        self._each_max = 1 if self._one else max(1, bitmap_extents_max // len(contexts))
        self._done = done

    def begin(self) -> None:
        """Ask about the first context that is not answered."""
        if len(self.found) == len(self._contexts):
            self._done(self)
            return
        about = self._volume, self._offset, self._length
        context = self._contexts[len(self.found)][1]
        bitmap = bitmap_of(context)
        if bitmap is not None:
            self._backend.changed(*about, bitmap, self._each_max, self._changed)
        elif context == CONTEXT_ALLOCATION:
            self._backend.extents(*about, self._one, self._allocated)
        else:  # nothing is known of it: 0
            self._allocated([(self._offset, self._length, True)])

    def _allocated(self, extents: list[Extent]) -> None:
        self._take(extents, ALLOCATION_STATES)

    def _changed(self, extents: list[Extent]) -> None:
        _number, context = self._contexts[len(self.found)]
        as_holes = context.startswith(CONTEXT_UNCHANGED)
        self._take(extents, UNCHANGED_STATES if as_holes else BITMAP_STATES)

    def _take(self, extents: list[Extent], states: tuple[int, int]) -> None:
        number, _name = self._contexts[len(self.found)]
        self.found.append((number, statuses(extents, self._length, self._one, states)))
        self.begin()
