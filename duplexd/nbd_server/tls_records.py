"""What came over TLS and is not decrypted yet, a record at a time.

OpenSSL works through all that it is given before it says that nothing is left, and a record may
leave nothing to count: the update of a key, a piece of a handshake. So it is given one short
record, and who asks for the next can count. Of long ones there cannot be many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

HEAD_BYTES = 5  # type, version, and the length of what follows: RFC 8446, 5.1
LONG_BYTES = 4 << 10


class Ciphertext:
    """Passes it on to `tls_input`."""

    def __init__(self, tls_input: ssl.MemoryBIO) -> None:
        self._tls_input = tls_input
        self._waiting = memoryview(b"")
        self._record_left = 0  # of the record that was passed on in part

    def came(self, data: memoryview) -> None:
        """It has to stay as it is until `pass_on` returns False."""
        self._waiting = memoryview(b"".join((self._waiting, data))) if self._waiting else data

    def pass_on(self) -> bool:
        """The next record, or what is here of it, and those behind it that are long. False, and
        nothing is done, if none is here.
        """
        end = self._record_left or self._record_bytes(0)
        if not end or not self._waiting:
            self._waiting = memoryview(bytes(self._waiting))  # its buffer is filled again
            return False
        while (following := self._record_bytes(end)) >= LONG_BYTES:
            end += following
        passed = self._tls_input.write(self._waiting[:end])
        self._waiting = self._waiting[passed:]
        self._record_left = end - passed
        return True

    def _record_bytes(self, start: int) -> int:
        """How long a record is, with its head; 0 if the head is not here."""
        head = self._waiting[start : start + HEAD_BYTES]
        return HEAD_BYTES + int.from_bytes(head[3:]) if len(head) == HEAD_BYTES else 0
