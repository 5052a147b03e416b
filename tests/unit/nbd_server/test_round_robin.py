"""Taking turns: one a turn of the loop, in order of asking."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.nbd_server.round_robin import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Callable


class Loop:
    """Calls back when a test says so."""

    def __init__(self) -> None:
        self.ready: list[Callable[[], None]] = []

    def soon(self, callback: Callable[[], None]) -> None:
        self.ready.append(callback)

    def turn(self) -> None:
        ready, self.ready = self.ready, []
        for callback in ready:
            callback()


class Worker:
    """Notes its turns, and wants so many."""

    def __init__(self, name: str, turns: RoundRobin, log: list[str], wants: int = 1) -> None:
        self.name = name
        self.turns = turns
        self.log = log
        self.wants = wants

    def turn(self) -> None:
        self.log.append(self.name)
        self.wants -= 1
        if self.wants:
            self.turns.ask(self)


def test_each_gets_a_turn_before_anyone_gets_another() -> None:
    loop, log = Loop(), list[str]()
    turns = RoundRobin(loop.soon)
    for name in "abc":
        turns.ask(Worker(name, turns, log, wants=2))
    for count in range(1, 7):
        loop.turn()
        assert len(log) == count
    assert "".join(log) == "abcabc"
    loop.turn()
    assert not loop.ready


def test_asking_twice_is_one_turn() -> None:
    loop, log = Loop(), list[str]()
    turns = RoundRobin(loop.soon)
    worker = Worker("a", turns, log)
    turns.ask(worker)
    turns.ask(worker)
    loop.turn()
    loop.turn()
    assert log == ["a"]


def test_who_withdraws_is_passed_over() -> None:
    loop, log = Loop(), list[str]()
    turns = RoundRobin(loop.soon)
    gone, stays = Worker("gone", turns, log), Worker("stays", turns, log)
    turns.ask(gone)
    turns.withdraw(gone)
    turns.withdraw(gone)
    loop.turn()
    assert log == []
    turns.ask(gone)
    turns.ask(stays)
    turns.withdraw(gone)
    loop.turn()
    assert log == ["stays"]


def test_one_that_fails_does_not_keep_the_others_from_their_turns() -> None:
    loop, log = Loop(), list[str]()
    turns = RoundRobin(loop.soon)

    class Failing(Worker):
        def turn(self) -> None:
            raise ValueError("nobody expected this")

    turns.ask(Failing("a", turns, log))
    turns.ask(Worker("b", turns, log))
    with pytest.raises(ValueError, match="nobody expected"):
        loop.turn()
    loop.turn()
    assert log == ["b"]


def test_those_with_little_to_do_share_a_turn_until_its_time_is_over() -> None:
    loop, log = Loop(), list[str]()
    now = iter(range(100))
    turns = RoundRobin(loop.soon, seconds=2.5, clock=lambda: next(now))
    for name in "abcde":
        turns.ask(Worker(name, turns, log))
    loop.turn()
    assert "".join(log) == "abc"
    loop.turn()
    assert "".join(log) == "abcde"


def test_nobody_has_two_turns_in_one_of_the_loop() -> None:
    loop, log = Loop(), list[str]()
    turns = RoundRobin(loop.soon, seconds=9, clock=lambda: 0)
    turns.ask(Worker("a", turns, log, wants=2))
    turns.ask(Worker("b", turns, log, wants=2))
    loop.turn()
    assert "".join(log) == "ab"
    loop.turn()
    assert "".join(log) == "abab"
