from __future__ import annotations

from queue import Empty, SimpleQueue

import pytest
from structlog.testing import capture_logs

from duplexd.daemon.ending import EXIT_NOT_STOPPED, Deadline

PATIENCE_SECONDS = 60


def test_a_stop_that_hangs_ends_the_process_and_says_what_was_left() -> None:
    ended: SimpleQueue[int] = SimpleQueue()
    deadline = Deadline(0.0, lambda: "the journal from 7 on", ended.put)
    with capture_logs() as logs:
        deadline.begin()
        assert ended.get(timeout=PATIENCE_SECONDS) == EXIT_NOT_STOPPED
    assert [(line["log_level"], line["left"]) for line in logs] == [
        ("error", "the journal from 7 on")
    ]


def test_a_process_that_goes_on_is_not_ended() -> None:
    ended: SimpleQueue[int] = SimpleQueue()
    deadline = Deadline(0.2, lambda: "", ended.put)
    deadline.begin()
    deadline.end()
    with pytest.raises(Empty):
        ended.get(timeout=0.5)


def test_that_it_cannot_say_what_was_left_does_not_keep_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown() -> str:
        raise RuntimeError

    monkeypatch.setattr("threading.excepthook", lambda _: None)
    ended: SimpleQueue[int] = SimpleQueue()
    Deadline(0.0, unknown, ended.put).begin()
    assert ended.get(timeout=PATIENCE_SECONDS) == EXIT_NOT_STOPPED


async def test_a_journal_that_does_not_answer_ends_it_earlier() -> None:
    ended: SimpleQueue[int] = SimpleQueue()
    waited = iter((0.0, 3.0, 10.5))
    deadline = Deadline(60.0, lambda: "the journal from 7 on", ended.put)
    with capture_logs() as logs:
        await deadline.without_journal(lambda: next(waited), 10.0)
    assert ended.get_nowait() == EXIT_NOT_STOPPED
    (line,) = logs
    assert (line["seconds"], line["left"]) == (10.5, "the journal from 7 on")
    assert line["event"].startswith("the journal does not answer")


def test_it_counts_from_the_first_time() -> None:
    ended: SimpleQueue[int] = SimpleQueue()
    deadline = Deadline(0.0, lambda: "", ended.put)
    deadline.begin()
    deadline.begin()
    assert ended.get(timeout=PATIENCE_SECONDS) == EXIT_NOT_STOPPED
    assert ended.empty()


def test_a_stop_that_is_over_ends_nothing() -> None:
    ended: SimpleQueue[int] = SimpleQueue()
    over, later = Deadline(0.05, lambda: "", ended.put), SimpleQueue[int]()
    over.begin()
    over.end()
    Deadline(0.1, lambda: "", later.put).begin()
    assert later.get(timeout=PATIENCE_SECONDS) == EXIT_NOT_STOPPED
    assert ended.empty()
