"""Group commit: one sync serves everybody who waits, and a sync that failed is final."""

from __future__ import annotations

import errno

from duplexd.journal.group_commit import GroupCommit
from duplexd.runtime.clock import RealClock
from tests.sim.disk import SimDisk
from tests.support.hand_workers import HandWorkers
from tests.unit.journal.journals import DIRECTORY, append, new_writer


class HandClock(RealClock):
    """Its time is what a test says."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Commits:
    """Group commit over a journal; `answers` are (who waited, errno), in order."""

    def __init__(self) -> None:
        self.disk = SimDisk()
        self.writer = new_writer(self.disk)
        self.workers = HandWorkers()
        self.failures: list[str] = []
        self.answers: list[tuple[str, int]] = []
        self.clock = HandClock()
        self.commit = GroupCommit(self.writer, self.workers, self.clock, self.failures.append)

    def write(self) -> int:
        return append(self.writer, [b"x"])[0]

    def wait(self, name: str, sequence: int) -> None:
        self.commit.wait(sequence, lambda error: self.answers.append((name, error)))


def test_one_sync_serves_all_that_wait() -> None:
    it = Commits()
    last = [it.write() for _ in range(3)][-1]
    for name in ("a", "b", "c"):
        it.wait(name, last)
    assert (len(it.workers.calls), it.answers) == (1, [])
    it.workers.finish()
    assert it.answers == [("a", 0), ("b", 0), ("c", 0)]
    assert sum(it.commit.took.counts) == 1


def test_a_sync_that_hangs_says_for_how_long() -> None:
    it = Commits()
    assert it.commit.waits_s() == 0.0
    it.clock.now = 10.0
    it.wait("a", it.write())
    it.clock.now = 17.0
    assert it.commit.waits_s() == 7.0
    it.workers.finish()
    assert it.commit.waits_s() == 0.0


def test_what_is_durable_is_answered_at_once() -> None:
    it = Commits()
    sequence = it.write()
    it.wait("first", sequence)
    it.workers.finish()
    it.wait("second", sequence)
    assert it.answers == [("first", 0), ("second", 0)]
    assert not it.workers.calls


def test_a_record_written_during_a_sync_waits_for_the_next_one() -> None:
    """The sync under way began before the record was written: it promises nothing about it."""
    it = Commits()
    it.wait("early", it.write())
    it.wait("late", it.write())
    assert len(it.workers.calls) == 1
    it.workers.finish()
    assert it.answers == [("early", 0)]
    it.workers.finish()
    assert it.answers == [("early", 0), ("late", 0)]


def test_a_failed_sync_is_final_for_all_that_wait_now_and_later() -> None:
    it = Commits()
    durable = it.write()
    it.wait("durable", durable)
    it.workers.finish()
    it.disk.fail(DIRECTORY, errno.EIO, operation="sync", times=1)
    it.wait("lost", it.write())
    it.workers.finish()
    it.wait("later", it.write())
    assert it.answers == [("durable", 0), ("lost", errno.EIO), ("later", errno.EIO)]
    assert not it.workers.calls, "a second try would succeed, and prove nothing"
    assert len(it.failures) == 1
    assert it.commit.dead
