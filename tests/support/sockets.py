"""Waiting until somebody listens: a Unix socket's file is there a moment before anyone does."""

from __future__ import annotations

import socket
import time

from tests.support.daemon import PATIENCE_SECONDS


def wait_listening(path: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Returns once a connection to the Unix socket is taken. Raises OSError if that does not come."""
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
