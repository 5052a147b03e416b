"""Clients that take places, descriptors or memory and do nothing with them: others go on, and the
journal has descriptors left. The daemon has few of these here, so few clients are many.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
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
COPY_CONNECTIONS, COPY_REQUEST_BYTES = 16, 32 * MIB


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


def test_a_copy_that_is_stopped_in_the_midst_of_its_payloads(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    length = COPY_CONNECTIONS * COPY_REQUEST_BYTES
    files = make_files(volumes={"data": length, "wal": "8MiB"}, journal_size="64MiB")
    daemon, source = start_daemon(files), tmp_path / "source"
    source.touch()
    os.truncate(source, length)
    command = [
        "nbdcopy", "--no-extents", "--sparse=0", "--requests=1",  # zeroes are written like others
        f"--connections={COPY_CONNECTIONS}", f"--threads={COPY_CONNECTIONS}",
        f"--request-size={COPY_REQUEST_BYTES}", str(source), files.uri("data"),
    ]  # fmt: skip
    before = volume(daemon, "data")["sequence"]
    with subprocess.Popen(command) as copy:
        try:
            while volume(daemon, "data")["sequence"] == before:
                assert copy.poll() is None
            copy.send_signal(signal.SIGSTOP)
            with contextlib.closing(Talk(files.nbd_socket, "wal")) as other:
                for place in range(20):
                    other.write(place * 4096, b"x" * 4096)
            assert volume(daemon, "data")["connections"] == COPY_CONNECTIONS
        finally:
            copy.kill()
