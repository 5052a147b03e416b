"""duplexd, with a clock on its event loop: how long it did not look for events, at the longest.

    TURNS=FILE python -m tests.bench.timed_turns run --config ...

What it does between two looks is what every client waits for: the callbacks of a turn, and a batch
of changes that is done between two turns. The longest span since it was last reset, and the number
of those above 5 ms, are in the file; it has them while the daemon runs. On a machine that does
other things, too, the processor time of a span says more than the time that passed. It is not known
of a span in which another thread went on with the loop, because a call hung.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from pathlib import Path
from threading import get_ident
from time import monotonic, thread_time
from typing import TYPE_CHECKING, NamedTuple

from duplexd.daemon import process, program
from duplexd.runtime.turns import TurnLoop

if TYPE_CHECKING:
    import select

LONG_SECONDS = 0.005
SPANS = struct.Struct("dqdq")


class Spans(NamedTuple):
    """The longest, in seconds, and how many were long: by the clock, and by processor time."""

    longest: float = 0.0
    long: int = 0
    longest_cpu: float = 0.0
    long_cpu: int = 0


class SharedSpans:
    """In a file, which two processes share."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(SPANS.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), SPANS.size)

    def read(self) -> Spans:
        return Spans(*SPANS.unpack_from(self._memory))

    def reset(self) -> None:
        SPANS.pack_into(self._memory, 0, *Spans())

    def note(self, seconds: float, cpu_seconds: float) -> None:
        found = self.read()
        if seconds > found.longest or seconds > LONG_SECONDS or cpu_seconds > found.longest_cpu:
            longest, count, longest_cpu, count_cpu = found
            count += seconds > LONG_SECONDS
            count_cpu += cpu_seconds > LONG_SECONDS
            longest, longest_cpu = max(longest, seconds), max(longest_cpu, cpu_seconds)
            SPANS.pack_into(self._memory, 0, longest, count, longest_cpu, count_cpu)


class _TimedEpoll:
    """What the loop looks for events with."""

    def __init__(self, epoll: select.epoll, spans: SharedSpans) -> None:
        self._epoll = epoll
        self._spans = spans
        self._since, self._cpu_since, self._thread = monotonic(), thread_time(), get_ident()

    def poll(self, timeout: float, events_max: int) -> list[tuple[int, int]]:
        cpu_seconds = thread_time() - self._cpu_since if get_ident() == self._thread else 0.0
        self._spans.note(monotonic() - self._since, cpu_seconds)
        found = self._epoll.poll(timeout, events_max)
        self._since, self._cpu_since, self._thread = monotonic(), thread_time(), get_ident()
        return found

    def close(self) -> None:
        self._epoll.close()


class TimedLoop(TurnLoop):
    """The daemon's loop with that clock."""

    _epoll: _TimedEpoll  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        epoll: select.epoll = self._epoll  # type: ignore[assignment]
        self._epoll = _TimedEpoll(epoll, SharedSpans(Path(os.environ["TURNS"])))


if __name__ == "__main__":
    vars(process)["TurnLoop"] = TimedLoop
    sys.exit(program.main())
