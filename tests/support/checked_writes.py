"""A client of libnbd that checks each of its writes, over many connections of one process.

    checked_writes.py URI...

It is run by Debian's Python, which has libnbd's module. Each connection writes a block with what
nothing else writes, reads it back, and now and then all of its blocks. At the end of stdin a line
of JSON says how many writes there were, and the longest wait. After an error, or for a block that
is not as it was written, it ends with a text and the exit code 1.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from typing import Any

BLOCK, BLOCKS = 4096, 64
ALL_AGAIN = 50  # writes between two looks at everything


class Client(threading.Thread):
    """One connection."""

    def __init__(self, uri: str, over: threading.Event) -> None:
        super().__init__(name=uri)
        import nbd  # noqa: PLC0415  Debian's

        self.handle: Any = nbd.NBD()
        self.handle.connect_uri(uri)
        self.over = over
        self.written: dict[int, bytes] = {}
        self.writes = 0
        self.longest_s = 0.0

    def run(self) -> None:
        while not self.over.is_set():
            number, content = random.randrange(BLOCKS), random.randbytes(BLOCK)
            began = time.monotonic()
            self.handle.pwrite(content, number * BLOCK)
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            self.written[number] = content
            self.check([number] if self.writes % ALL_AGAIN else list(self.written))
            self.writes += 1
            time.sleep(0.03)
        self.check(list(self.written))
        self.handle.shutdown()

    def check(self, numbers: list[int]) -> None:
        for number in numbers:
            found = self.handle.pread(BLOCK, number * BLOCK)
            if found != self.written[number]:
                raise AssertionError(f"{self.name}: block {number} is not as it was written")


def main() -> None:
    """Until the end of stdin."""
    over, failed = threading.Event(), list[str]()
    threading.excepthook = lambda what: failed.append(f"{what.thread}: {what.exc_value!r}")
    clients = [Client(uri, over) for uri in sys.argv[1:]]
    for client in clients:
        client.start()
    print("connected", flush=True)
    sys.stdin.read()
    over.set()
    for client in clients:
        client.join()
    if failed:
        sys.exit("\n".join(failed))
    writes = [client.writes for client in clients]
    longest_s = max(client.longest_s for client in clients)
    print(json.dumps({"writes": sum(writes), "least": min(writes), "longest_s": longest_s}))


if __name__ == "__main__":
    main()
