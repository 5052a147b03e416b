"""Waiting until a server listens (a Unix socket's file exists a moment earlier), and talking NBD
with it.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from duplexd.nbd.client import NbdClient
from tests.support.daemon import PATIENCE_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.nbd.client_replies import Reply


def wait_listening(path: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Return once a connection to the Unix socket is accepted. Raises OSError if none is."""
    deadline = time.monotonic() + seconds
    while True:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(path)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return


class Talk:
    """A connection of a good client to an export, its handshake done: to a Unix socket, or to a TCP
    port of this machine. Close it. Raises ConnectionError if the server hangs up.
    """

    def __init__(self, place: str | Path | int, export: str) -> None:
        self._client = NbdClient(export)
        self._socket = socket.socket(socket.AF_INET if isinstance(place, int) else socket.AF_UNIX)
        try:
            self._socket.connect(("127.0.0.1", place) if isinstance(place, int) else str(place))
            self._socket.settimeout(PATIENCE_SECONDS)
            while not self._client.ready:
                self._client.receive(self._received())
                self._socket.sendall(self._client.data_to_send())
        except BaseException:
            self.close()
            raise

    def read(self, offset: int, length: int) -> bytes:
        """The bytes. Raises OSError if the server refuses."""
        self._client.read(offset, length)
        return self._answered().data

    def write(self, offset: int, payload: bytes) -> None:
        """Return when it is answered. Raises OSError if the server refuses."""
        self._client.write(offset, payload)
        self._answered()

    def _answered(self) -> Reply:
        self._socket.sendall(self._client.data_to_send())
        while not (replies := self._client.receive(self._received())):
            pass
        if replies[0].error:
            raise OSError(replies[0].error, "refused")
        return replies[0]

    def close(self) -> None:
        """Close the connection without a disconnect request."""
        self._socket.close()

    def _received(self) -> bytes:
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the server hung up")
        return data
