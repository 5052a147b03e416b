"""A WRITE that is taken in pieces while its payload comes, and answered once.

What a client announces costs nothing: a piece is a change like others, with an offset of its own,
and its memory was given when it came. The one reply is sent when all pieces are done, with FUA when
all are durable. A client that goes in the middle leaves the pieces that were done: the request was
never answered, and a WRITE of several records is not atomic anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from duplexd.backend import WRITE, Change, Client
from duplexd.nbd import constants as c

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.backend import Volume
    from duplexd.nbd.transmission import Request


class Owner(Client, Protocol):
    """The connection that it came over. `since`: when it took what it takes now."""

    since: float

    def pieces_done(self, long: LongWrite, pieces: int, nbytes: int) -> None:
        """So many changes of `long`, and so much of its payload, are done."""


class LongWrite:
    """The client of its pieces. `refused`: an NBD error, with which nothing is written.
    `abandoned`: it will not be answered.
    """

    __slots__ = ("_left", "_owner", "_whole", "abandoned", "coming", "refused")

    def __init__(self, owner: Owner, volume: Volume, request: Request, refused: int) -> None:
        flags, _command, cookie, offset, length, _nothing = request
        fua = flags & c.CMD_FLAG_FUA != 0
        # Of no length: its bytes are counted with the pieces
        self._whole = Change(owner, cookie, volume, WRITE, offset, 0, b"", fua)
        self._whole.since = owner.since
        self._owner = owner
        self._left = self.coming = length  # to be done; to come
        self.refused = refused
        self.abandoned = False

    def piece(self, request: Request) -> Change | None:
        """The change that this piece of the payload is; None if it is refused."""
        *_, offset, length, payload = request
        self.coming -= length
        whole = self._whole
        if self.refused or self.abandoned or payload is None:
            return None
        return Change(self, 0, whole.volume, WRITE, offset, length, payload, whole.fua)

    def finished(self, changes: Sequence[Change]) -> None:
        """See `Client`."""
        whole, done = self._whole, 0
        for change in changes:
            whole.error = whole.error or change.error
            done += change.length
            change.data = b""
        self._left -= done
        self._owner.pieces_done(self, len(changes), done)
        if not self._left and not self.abandoned:
            self._owner.finished([whole])

    @property
    def waits(self) -> bool:
        """Whether all that came of it is done, and more is to come: the rest is a WRITE by itself,
        with the same reply.
        """
        fine = not (self.refused or self.abandoned or self._whole.error)
        return fine and 0 < self.coming == self._left

    @property
    def is_done(self) -> bool:
        """Whether nothing of it is left to be done."""
        return not self._left

    def answer(self) -> tuple[int, int, int]:
        """Cookie, offset and error of the reply to one that was refused."""
        return self._whole.cookie, self._whole.offset, self.refused
