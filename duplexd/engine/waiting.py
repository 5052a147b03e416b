"""Which changes of each client wait, so that a client that leaves costs what is its own.

A client's waiting changes are anywhere in the queue and at the gates. Looking through all of that
for each client that leaves costs clients x changes: some hundred that leave together would stop the
loop for a minute. So its changes are found here, and only marked as *gone* where they wait: their
payload is freed, their client takes any answer, and they are skipped when their turn comes. What is
marked is taken out once it is half of all that waits, so that costs no more than marking it did.

The lists here are not exact, for the same reason: what has begun is dropped from them when they
have doubled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.backend import Change, Client

_NOTED_MIN = 1024


class _Gone:
    """The client of changes whose client has gone: takes any answer."""

    def finished(self, changes: Sequence[Change]) -> None:
        """See `Client`."""


GONE = _Gone()


class Waiting:
    """The changes that were noted, by client. `gone` of them are marked, and still where they
    waited; whoever takes those out resets it.
    """

    __slots__ = ("_noted", "_noted_max", "_of", "gone")

    def __init__(self) -> None:
        self.gone = 0
        self._of: dict[Client, list[Change]] = {}
        self._noted = 0
        self._noted_max = _NOTED_MIN

    def note(self, client: Client, change: Change) -> None:
        """A change of `client` waits from now on."""
        of = self._of.get(client)
        if of is None:
            of = self._of[client] = []
        of.append(change)
        self._noted += 1
        if self._noted > self._noted_max:
            self._forget_begun()

    def leave(self, client: Client) -> None:
        """Mark what waits of this client."""
        of = self._of.pop(client, ())
        self._noted -= len(of)
        for change in of:
            if not change.begun and change.client is not GONE:
                change.client = GONE
                change.data = b""
                self.gone += 1

    def clear(self) -> None:
        """Nothing waits."""
        self.gone = self._noted = 0
        self._of.clear()

    def _forget_begun(self) -> None:
        left = {
            client: [change for change in changes if not change.begun]
            for client, changes in self._of.items()
        }
        self._of = {client: changes for client, changes in left.items() if changes}
        self._noted = sum(map(len, self._of.values()))
        self._noted_max = max(_NOTED_MIN, 2 * self._noted)
