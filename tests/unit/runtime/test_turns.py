"""A loop that is driven turn by turn does all that asyncio's does, from whichever thread."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime.turns import TurnLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_SECONDS = 60.0


@pytest.fixture
def loop() -> Iterator[TurnLoop]:
    loop = TurnLoop()
    loop.enter()
    yield loop
    loop.leave()
    loop.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def turns_until(loop: TurnLoop, done: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < until, "it did not happen"
        loop.turn(True)


def test_what_can_be_read_is_read(
    loop: TurnLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    seen: list[bytes] = []
    loop.add_reader(ours, lambda: seen.append(ours.recv(10)))
    theirs.send(b"one")
    loop.turn(True)
    theirs.send(b"two")
    loop.turn(True)
    assert seen == [b"one", b"two"]


def test_the_end_of_a_stream_is_read(
    loop: TurnLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    """It comes with more than one event, which is left to asyncio's turn."""
    ours, theirs = pair
    seen: list[bytes] = []
    loop.add_reader(ours, lambda: seen.append(ours.recv(10)))
    theirs.close()
    turns_until(loop, lambda: seen)
    assert seen == [b""]


def test_what_can_be_written_is_written(
    loop: TurnLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    loop.add_writer(ours, lambda: (ours.send(b"sent"), loop.remove_writer(ours)))
    loop.turn(True)
    assert theirs.recv(10) == b"sent"
    theirs.setblocking(False)
    loop.turn(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(10)


def test_a_socket_that_is_read_and_written_gets_both(
    loop: TurnLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    seen: list[str] = []

    def read() -> None:
        ours.recv(10)
        seen.append("read")

    loop.add_reader(ours, read)

    def write() -> None:
        seen.append("written")
        loop.remove_writer(ours)

    loop.add_writer(ours, write)
    theirs.send(b"x")
    turns_until(loop, lambda: len(seen) == 2)
    assert sorted(seen) == ["read", "written"]


def test_a_reader_that_another_one_removed_is_not_called(loop: TurnLoop) -> None:
    called: list[str] = []
    (first, to_first), (second, to_second) = socket.socketpair(), socket.socketpair()
    with first, to_first, second, to_second:

        def read(name: str) -> None:
            called.append(name)
            loop.remove_reader(first)
            loop.remove_reader(second)

        loop.add_reader(first, read, "first")
        loop.add_reader(second, read, "second")
        to_first.send(b"x")
        to_second.send(b"x")
        for _ in range(3):
            loop.turn(False)
    assert len(called) == 1


def test_timers_and_callbacks_run_although_there_is_always_something_to_read(
    loop: TurnLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    happened: list[str] = []
    loop.add_reader(ours, lambda: None)  # and never reads it
    theirs.send(b"x")
    loop.call_later(0.01, happened.append, "timer")
    loop.call_soon(happened.append, "callback")
    turns_until(loop, lambda: len(happened) == 2)
    assert happened == ["callback", "timer"]


def test_what_a_reader_asks_for_is_done_in_the_same_turn(
    loop: TurnLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    seen: list[bytes] = []
    loop.add_reader(ours, lambda: loop.call_soon(seen.append, ours.recv(10)))
    theirs.send(b"x")
    loop.turn(True)
    assert seen == [b"x"]


def test_a_cancelled_callback_is_not_called(loop: TurnLoop) -> None:
    called: list[int] = []
    loop.call_soon(called.append, 1).cancel()
    loop.call_soon(called.append, 2)
    loop.turn(True)
    assert called == [2]


def test_a_turn_that_may_not_wait_does_not(loop: TurnLoop) -> None:
    loop.call_later(3600, lambda: None)
    loop.turn(False)


def test_another_thread_ends_the_wait(loop: TurnLoop) -> None:
    called: list[int] = []
    other = threading.Thread(target=loop.call_soon_threadsafe, args=(called.append, 1))
    other.start()
    turns_until(loop, lambda: called)
    other.join()


def test_an_error_of_a_reader_is_reported_and_the_loop_goes_on(
    loop: TurnLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    reported: list[object] = []
    loop.set_exception_handler(lambda _loop, context: reported.append(context["exception"]))

    def read() -> None:
        ours.recv(10)
        raise ValueError("no")

    loop.add_reader(ours, read)
    theirs.send(b"x")
    loop.turn(True)
    loop.call_soon(reported.append, "went on")
    loop.turn(True)
    assert [str(each) for each in reported] == ["no", "went on"]


def test_tasks_go_on_in_the_thread_that_drives() -> None:
    loop, threads = TurnLoop(), []

    async def work() -> None:
        for _ in range(2):
            threads.append(threading.get_ident())
            assert asyncio.get_running_loop() is loop
            await asyncio.sleep(0)

    task = loop.create_task(work())

    def drive(turns: int) -> None:
        loop.enter()
        for _ in range(turns):
            loop.turn(False)
        loop.leave()

    drive(1)
    other = threading.Thread(target=drive, args=(3,))
    other.start()
    other.join()
    assert task.done()
    assert threads[0] == threading.get_ident() != threads[1]
    loop.close()


def test_it_also_runs_whole() -> None:
    async def work() -> bytes:
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            theirs.send(b"hello")
            found = await reader.read(5)
            writer.close()
            await writer.wait_closed()
        return found

    with asyncio.Runner(loop_factory=TurnLoop) as runner:
        assert runner.run(work()) == b"hello"


def test_what_was_due_before_an_event_comes_before_it(
    loop: TurnLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    seen: list[int] = []
    loop.add_reader(ours, seen.append, 1)
    theirs.send(b"x")
    loop.call_soon(loop.remove_reader, ours)
    loop.turn(False)
    loop.turn(False)
    assert seen == []


def test_who_always_goes_on_has_one_turn_between_two_looks_at_events(
    loop: TurnLoop, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    seen: list[str] = []

    def go_on() -> None:
        seen.append("share")
        loop.call_soon(go_on)

    loop.add_reader(ours, seen.append, "event")
    theirs.send(b"x")
    loop.call_soon(go_on)
    for _ in range(3):
        loop.turn(False)
    assert seen == ["share", "event"] * 3


def test_clients_that_connect_at_once_are_all_accepted(loop: TurnLoop, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    accepted: list[socket.socket] = []
    clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    wrong: list[object] = []
    loop.set_exception_handler(lambda _loop, context: wrong.append(context))

    def connect() -> None:
        for client in clients:
            client.connect(path)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.setblocking(False)
        listener.bind(path)
        listener.listen()

        async def accept() -> None:
            while True:
                accepted.append((await loop.sock_accept(listener))[0])

        task = loop.create_task(accept())
        loop.turn(False)
        loop.call_soon(connect)
        loop.call_later(0, int)  # due, so that asyncio's own turn follows, and sees the clients
        turns_until(loop, lambda: len(accepted) == len(clients) or wrong)
        task.cancel()
        turns_until(loop, task.done)
    for each in (*clients, *accepted):
        each.close()
    assert not wrong
    assert len(accepted) == len(clients)
