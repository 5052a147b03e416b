"""Admission: whether batches may begin, and why not."""

from __future__ import annotations

import errno

import pytest

from duplexd.core.admission import Admission

LAG, ROOM = frozenset({"lag"}), frozenset({"room"})


class Opened:
    """Counts the calls of `on_open`."""

    def __init__(self, admission: Admission) -> None:
        self.count = 0
        admission.on_open = self._opened

    def _opened(self) -> None:
        self.count += 1


def test_at_first_it_is_clear() -> None:
    admission = Admission()
    assert (admission.clear, admission.waiting, admission.refusal) == (True, False, 0)
    assert admission.reasons == frozenset()


def test_a_reason_makes_batches_wait_until_it_is_taken_back() -> None:
    admission = Admission()
    opened = Opened(admission)
    admission.hold("lag")
    assert (admission.clear, admission.waiting, admission.reasons) == (False, True, LAG)
    assert opened.count == 0
    admission.lift("lag")
    assert (admission.clear, admission.waiting, opened.count) == (True, False, 1)


def test_batches_begin_only_when_the_last_reason_is_gone() -> None:
    admission = Admission()
    opened = Opened(admission)
    admission.hold("lag")
    admission.hold("room")
    admission.lift("lag")
    assert (admission.waiting, admission.reasons, opened.count) == (True, ROOM, 0)
    admission.lift("room")
    assert (admission.waiting, opened.count) == (False, 1)


def test_a_reason_that_is_set_twice_is_taken_back_once() -> None:
    admission = Admission()
    admission.hold("lag")
    admission.hold("lag")
    admission.lift("lag")
    assert admission.clear


def test_a_reason_that_was_not_set_opens_nothing() -> None:
    """Otherwise each look at a follower that keeps up would begin a batch."""
    admission = Admission()
    opened = Opened(admission)
    admission.lift("lag")
    admission.hold("room")
    admission.lift("lag")
    assert (admission.reasons, opened.count) == (ROOM, 0)


@pytest.mark.parametrize("holds", [True, False])
def test_set_holds_or_lifts(holds: bool) -> None:
    admission = Admission()
    admission.hold("lag")
    admission.set("lag", holds)
    assert admission.waiting == holds


def test_a_refusal_lets_nothing_wait_and_is_taken_back() -> None:
    admission = Admission()
    opened = Opened(admission)
    admission.refuse(errno.ENOSPC)
    assert (admission.clear, admission.waiting, admission.refusal) == (False, False, errno.ENOSPC)
    assert opened.count == 1, "changes that wait are to be refused"
    admission.refuse(0)
    assert (admission.clear, admission.refusal, opened.count) == (True, 0, 2)


def test_a_refusal_and_a_reason_do_not_take_back_each_other() -> None:
    admission = Admission()
    admission.hold("lag")
    admission.refuse(errno.EIO)
    admission.lift("lag")
    assert (admission.clear, admission.refusal) == (False, errno.EIO)
    admission.hold("lag")
    admission.refuse(0)
    assert (admission.clear, admission.waiting) == (False, True)


def test_the_reasons_that_are_shown_are_a_copy() -> None:
    admission = Admission()
    admission.hold("lag")
    before = admission.reasons
    admission.lift("lag")
    assert before == LAG
