"""Clients that take places or descriptors and do nothing with them: others go on, and the
journal has descriptors left. The daemon has few of these here, so few clients are many.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import PATIENCE_SECONDS, free_port
from tests.support.sockets import Talk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

MIB = 1 << 20
DESCRIPTORS = 160
FEW_DESCRIPTORS = ["sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$@"', "sh"]
REFUSED_IN_TURN = 20  # then none gets in any more


@pytest.fixture
def files(make_files: Callable[..., DaemonFiles]) -> DaemonFiles:
    return make_files(
        volumes={"data": "64MiB", "wal": "8MiB"}, tcp_port=free_port(), journal_size="64MiB"
    )


def silent_clients(stack: contextlib.ExitStack, port: int) -> int:
    """As many as get in over TCP, each with its handshake done; how many."""
    inside = refused = 0
    while refused < REFUSED_IN_TURN:
        try:
            stack.callback(Talk(port, "data").close)
        except ConnectionError:
            refused += 1
        else:
            inside, refused = inside + 1, 0
    return inside


def strangers(stack: contextlib.ExitStack, path: Path) -> int:
    """As many as are greeted, and say nothing; how many."""
    greeted = refused = 0
    while refused < REFUSED_IN_TURN:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.settimeout(PATIENCE_SECONDS)
        sock.connect(str(path))
        try:
            data = sock.recv(18)
        except ConnectionError:
            data = b""
        greeted, refused = (greeted + 1, 0) if data else (greeted, refused + 1)
    return greeted


def volume(daemon: Daemon, name: str) -> dict[str, Any]:
    """What status says of a volume."""
    volumes = daemon.request("GET", "/v1/status")[1]["volumes"]
    found = next(each for each in volumes if each["name"] == name)
    assert isinstance(found, dict)
    return found


def test_an_address_that_takes_all_its_places_leaves_some_to_others(
    files: DaemonFiles, start_daemon: Callable[..., Daemon]
) -> None:
    daemon = start_daemon(files, prefix=FEW_DESCRIPTORS)
    assert files.tcp_port is not None
    with contextlib.ExitStack() as stack:
        assert 0 < silent_clients(stack, files.tcp_port) < DESCRIPTORS
        with contextlib.closing(Talk(files.nbd_socket, "wal")) as other:
            other.write(0, b"x" * 4096)
    while volume(daemon, "data")["connections"]:
        pass  # it has yet to see that they have left
    with contextlib.closing(Talk(files.tcp_port, "data")) as next_one:
        assert next_one.read(0, 512) == bytes(512)


def test_strangers_leave_the_journal_its_descriptors(
    files: DaemonFiles, start_daemon: Callable[..., Daemon]
) -> None:
    daemon = start_daemon(files, prefix=FEW_DESCRIPTORS)
    with contextlib.ExitStack() as stack:
        good = stack.enter_context(contextlib.closing(Talk(files.nbd_socket, "data")))
        assert 0 < strangers(stack, files.nbd_socket) < DESCRIPTORS
        for place in range(64):  # a new segment after each four of them
            good.write(place * MIB, os.urandom(MIB))
        status, suspended = daemon.request("POST", "/v1/suspend", {"targets": ["data"]})
        assert (status, suspended["verdict"]) == (200, "consistent")
        good.write(0, b"x" * 4096)
