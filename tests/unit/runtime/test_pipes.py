"""Pipes on their way from a file to a socket: whole, in order, and never another reply's."""

from __future__ import annotations

import errno
import os
import resource
import socket
from mmap import PAGESIZE
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime.pipes import PIPE_BYTES, REFUSED_TAKES, Pipe, Pipes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = b"".join(number.to_bytes(4, "big") for number in range(PIPE_BYTES // 2))


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """Of a file of twice what a pipe holds."""
    (tmp_path / "file").write_bytes(CONTENT)
    fd = os.open(tmp_path / "file", os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's, which does not block, and the client's."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize(
    ("offset", "length"), [(0, PIPE_BYTES), (PAGESIZE, 1), (3, 5), (513, PIPE_BYTES - PAGESIZE)]
)
def test_a_range_comes_out_as_it_is(fd: int, offset: int, length: int) -> None:
    pipe = Pipe()
    assert pipe.put_pages(fd, offset, length)
    assert len(pipe) == length
    assert pipe.read() == CONTENT[offset : offset + length]
    assert len(pipe) == 0


def test_what_has_no_room_is_not_put(fd: int) -> None:
    pipe = Pipe()
    assert not pipe.put_pages(fd, 1, PIPE_BYTES)
    assert len(pipe) == 0


def test_a_range_past_the_end_is_not_all_put(fd: int) -> None:
    assert not Pipe().put_pages(fd, len(CONTENT) - 10, 11)


def test_what_was_put_outlives_the_file_s_content(fd: int) -> None:
    pipe = Pipe()
    assert pipe.put_pages(fd, 0, PIPE_BYTES)
    os.ftruncate(fd, 0)
    assert pipe.read() == CONTENT[:PIPE_BYTES]


def test_a_socket_takes_what_it_has_room_for(
    fd: int, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ends
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * PAGESIZE)
    pipe, received, waits = Pipe(), bytearray(), 0
    assert pipe.put_pages(fd, 0, PIPE_BYTES)
    while len(pipe):
        try:
            pipe.send(ours.fileno())
        except BlockingIOError:
            waits += 1
            received += theirs.recv(PIPE_BYTES)
    while len(received) < PIPE_BYTES:
        received += theirs.recv(PIPE_BYTES)
    assert received == CONTENT[:PIPE_BYTES]
    assert waits


def test_a_pipe_is_used_again_once_nobody_refers_to_it() -> None:
    pipes = Pipes(2)
    first, second = pipes.take(), pipes.take()
    assert first is not None
    assert second is not first
    assert pipes.take() is None
    number = id(first)
    del first
    assert id(pipes.take()) == number


def test_what_was_left_in_a_pipe_is_never_sent_for_another_reply() -> None:
    pipes = Pipes(1)
    pipe = pipes.take()
    assert pipe is not None
    pipe.put(b"left")
    del pipe
    again = pipes.take()
    assert again is not None
    again.put(b"next")
    assert again.read() == b"next"


def test_what_was_put_before_an_error_is_never_sent_for_another_reply(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector in the middle of a range: what comes before it is in the pipe already."""
    pipes, splice = Pipes(1), os.splice
    answers = iter([PAGESIZE, 0])

    def broken(src: int, dst: int, count: int, offset_src: int) -> int:
        if not (count := min(count, next(answers))):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return splice(src, dst, count, offset_src=offset_src)

    pipe = pipes.take()
    assert pipe is not None
    with monkeypatch.context() as patch:
        patch.setattr(os, "splice", broken)
        with pytest.raises(OSError, match="Input/output error"):
            pipe.put_pages(fd, 0, 2 * PAGESIZE)
    del pipe
    again = pipes.take()
    assert again is not None
    assert again.put_pages(fd, PIPE_BYTES, PAGESIZE)
    assert again.read() == CONTENT[PIPE_BYTES : PIPE_BYTES + PAGESIZE]


def test_without_descriptors_there_is_none_until_there_are_again() -> None:
    pipes = Pipes(2)
    first = pipes.take()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert pipes.take() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    vain = 0
    while (second := pipes.take()) is None:
        vain += 1
        assert vain <= REFUSED_TAKES
    assert second is not first
    assert vain == REFUSED_TAKES, "the system is not asked each time"
    assert pipes.take() is None, "two are the most, as before"


def test_a_pipe_is_closed_when_it_is_not_kept() -> None:
    before = len(os.listdir("/proc/self/fd"))
    pipes = Pipes(4)
    taken = [pipes.take() for _ in range(4)]
    assert len(os.listdir("/proc/self/fd")) == before + 8
    taken.clear()
    pipes.clear()
    assert len(os.listdir("/proc/self/fd")) == before
