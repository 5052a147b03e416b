"""Whether batches may begin: open, or the named reasons why not. Pure.

The write path reads one attribute before each batch. A part that needs batches to wait sets a
reason here and removes it later; the write path does not know these parts and polls none of them.
A reason is a name, so one part cannot remove the reason of another, and it is known why writes
wait.

    a reason     batches of all volumes wait (a follower is too far behind, no room in the journal)
    a refusal    changes are answered with an errno (journal full; failed, which is final)

Changes of single volumes wait at the write path's gates, which leases close.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Admission:
    """`clear`: every change may be done at once. `waiting`: batches have to wait.

    `refusal` is the errno that changes are answered with, 0 for none. `on_open` is called when
    batches may begin again, or when waiting changes have to be refused. It must not begin a batch
    itself: it may be called in the middle of a step that still has markers to append.
    """

    __slots__ = ("_reasons", "clear", "on_open", "refusal", "waiting")

    def __init__(self) -> None:
        self._reasons: set[str] = set()
        self.clear = True
        self.waiting = False
        self.refusal = 0
        self.on_open: Callable[[], None] = _nothing_waits

    @property
    def reasons(self) -> frozenset[str]:
        """Why batches wait."""
        return frozenset(self._reasons)

    def hold(self, reason: str) -> None:
        """Make batches wait for this reason. A second call changes nothing."""
        self._reasons.add(reason)
        self._look()

    def lift(self, reason: str) -> None:
        """Remove the reason. Batches begin if it was the last one."""
        if reason in self._reasons:
            self._reasons.discard(reason)
            self._look()
            if not self._reasons:
                self.on_open()

    def set(self, reason: str, holds: bool) -> None:
        """`hold` or `lift`."""
        if holds:
            self.hold(reason)
        else:
            self.lift(reason)

    def refuse(self, error: int) -> None:
        """Answer changes with this errno from now on; 0: take them again."""
        self.refusal = error
        self._look()
        self.on_open()

    def _look(self) -> None:
        self.waiting = bool(self._reasons)
        self.clear = not (self._reasons or self.refusal)


def _nothing_waits() -> None:
    """No queue is connected yet."""
