"""A history that forgets claims nothing of what it forgot, and stays small."""

from __future__ import annotations

from duplexd.canary.history import History

KEEP = 10


def histories(records: int) -> tuple[History, History, list[int]]:
    """One that forgets, one that does not, and the moments before each record."""
    short, whole = History(2, KEEP), History(2)
    moments = []
    for step in range(records):
        moments.append(whole.tick())
        short.tick()
        for history in (short, whole):
            assert history.issue(step % 2) == step // 2 + 1
            history.acknowledge(step % 2)
    return short, whole, moments


def test_what_is_remembered_equals_a_history_that_forgets_nothing() -> None:
    short, whole, moments = histories(200)
    assert short.newest == whole.newest
    assert short.acknowledged == whole.acknowledged == 200
    for moment in moments[-2 * KEEP + 2 :]:
        for writer in range(2):
            assert short.acknowledged_before(writer, moment) == whole.acknowledged_before(
                writer, moment
            )
            assert short.issued_before(writer, moment) == whole.issued_before(writer, moment)
    for number in range(100 - KEEP + 1, 101):
        assert short.issued_at(0, number) == whole.issued_at(0, number) > 0


def test_nothing_is_claimed_of_forgotten_records() -> None:
    short, whole, moments = histories(200)
    assert short.issued_at(0, 1) == 0
    for moment in moments:
        assert short.acknowledged_before(0, moment) in {0, whole.acknowledged_before(0, moment)}
        assert short.issued_before(0, moment) >= whole.issued_before(0, moment)
    assert short.acknowledged_before(0, moments[10]) == 0


def test_a_history_that_forgets_stays_small() -> None:
    short, _, _ = histories(5000)
    assert max(len(times) for times in (*short._issued, *short._acknowledged)) <= 2 * KEEP + 1
