"""Group commit: one sync serves everybody who waits, and a sync that failed is final."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from duplexd.journal.group_commit import Flusher
from duplexd.runtime.clock import RealClock
from tests.sim.disk import SimDisk
from tests.unit.journal.journals import DIRECTORY, append, new_writer

if TYPE_CHECKING:
    from collections.abc import Callable


class HandWorkers:
    """Calls are run, and their ends told, when the test says so."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = []

    def submit(
        self, call: Callable[[], Any], done: Callable[[Any, BaseException | None], None]
    ) -> None:
        self.calls.append((call, done))

    def finish(self) -> None:
        call, done = self.calls.pop(0)
        try:
            call()
        except OSError as error:
            done(None, error)
        else:
            done(None, None)


class Flushes:
    """A flusher over a journal, and what it told."""

    def __init__(self) -> None:
        self.disk = SimDisk()
        self.writer = new_writer(self.disk)
        self.workers = HandWorkers()
        self.failures: list[str] = []
        self.answers: list[tuple[str, int]] = []
        self.flusher = Flusher(self.writer, self.workers, RealClock(), self.failures.append)  # type: ignore[arg-type]

    def write(self) -> int:
        return append(self.writer, [b"x"])[0]

    def wait(self, name: str, sequence: int) -> None:
        self.flusher.wait(sequence, lambda error: self.answers.append((name, error)))


def test_one_sync_serves_all_that_wait() -> None:
    it = Flushes()
    last = [it.write() for _ in range(3)][-1]
    for name in ("a", "b", "c"):
        it.wait(name, last)
    assert (len(it.workers.calls), it.answers) == (1, [])
    it.workers.finish()
    assert it.answers == [("a", 0), ("b", 0), ("c", 0)]
    assert it.flusher.syncs == 1


def test_what_is_durable_is_answered_at_once() -> None:
    it = Flushes()
    sequence = it.write()
    it.wait("first", sequence)
    it.workers.finish()
    it.wait("second", sequence)
    assert it.answers == [("first", 0), ("second", 0)]
    assert it.workers.calls == []


def test_who_comes_during_a_sync_gets_the_next_one() -> None:
    """The sync under way began before the change was written: it promises nothing about it."""
    it = Flushes()
    it.wait("early", it.write())
    it.wait("late", it.write())
    assert len(it.workers.calls) == 1
    it.workers.finish()
    assert it.answers == [("early", 0)]
    it.workers.finish()
    assert it.answers == [("early", 0), ("late", 0)]


def test_a_sync_that_failed_is_final_for_all() -> None:
    it = Flushes()
    durable = it.write()
    it.wait("durable", durable)
    it.workers.finish()
    it.disk.fail(DIRECTORY, errno.EIO, operation="sync", times=1)
    it.wait("lost", it.write())
    it.workers.finish()
    it.wait("later", it.write())
    assert it.answers == [("durable", 0), ("lost", errno.EIO), ("later", errno.EIO)]
    assert it.workers.calls == [], "no second try: it would succeed, and lie"
    assert len(it.failures) == 1
    assert it.flusher.dead
