"""Sockets that a service manager passed."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import ConfigurationError
from duplexd.net.activation import passed_sockets
from duplexd.net.address import TcpAddress, UnixAddress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST = 700  # far from what is open


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    """Numbers that are closed at the end, unless they were taken."""
    used: list[int] = []
    yield used
    for number in used:
        try:
            os.close(number)
        except OSError:
            continue


class Manager:
    """Passes sockets at FIRST and up."""

    def __init__(self, directory: Path, descriptors: list[int]) -> None:
        self.directory = directory
        self._descriptors = descriptors

    def unix(self, name: str = "s") -> UnixAddress:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(self.directory / name))
        sock.listen()
        self.add(sock)
        return UnixAddress(str(self.directory / name))

    def tcp(self) -> TcpAddress:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        self.add(sock)
        return TcpAddress("127.0.0.1", port)

    def add(self, sock: socket.socket) -> None:
        number = FIRST + len(self._descriptors)
        os.dup2(sock.fileno(), number)
        sock.close()
        self._descriptors.append(number)

    def environment(self, names: str | None = None, pid: int = os.getpid()) -> dict[str, str]:
        variables = {"LISTEN_PID": str(pid), "LISTEN_FDS": str(len(self._descriptors))}
        return variables if names is None else {**variables, "LISTEN_FDNAMES": names}


@pytest.fixture
def manager(tmp_path: Path, descriptors: list[int]) -> Manager:
    return Manager(tmp_path, descriptors)


def test_names_say_what_a_socket_is_for(manager: Manager) -> None:
    nbd, control, more = manager.unix("n"), manager.unix("c"), manager.tcp()
    passed = passed_sockets(manager.environment("nbd:control:nbd"), FIRST)
    assert [each.address for each in passed.nbd] == [nbd, more]
    assert passed.control is not None
    assert passed.control.address == control
    for each in (*passed.nbd, passed.control):
        each.close()


@pytest.mark.parametrize("names", [None, "", "unknown", "duplexd@db-nbd.socket"])
def test_a_socket_without_a_name_is_for_nbd(manager: Manager, names: str | None) -> None:
    address = manager.unix()
    passed = passed_sockets(manager.environment(names), FIRST)
    assert [each.address for each in passed.nbd] == [address]
    passed.nbd[0].close()


def test_the_file_of_a_passed_socket_stays(manager: Manager) -> None:
    address = manager.unix()
    (passed,) = passed_sockets(manager.environment(), FIRST).nbd
    passed.close()
    assert os.path.exists(address.path)


def test_the_sockets_of_another_process_are_not_taken(manager: Manager) -> None:
    manager.unix()
    environment = manager.environment(pid=os.getpid() + 1)
    assert passed_sockets(environment, FIRST).nbd == []
    assert environment == {}


def test_no_child_gets_them(manager: Manager) -> None:
    manager.unix()
    environment = manager.environment()
    (passed,) = passed_sockets(environment, FIRST).nbd
    assert environment == {}
    assert not os.get_inheritable(passed.sock.fileno())
    passed.close()


def test_an_unknown_name_is_a_mistake(manager: Manager) -> None:
    manager.unix()
    with pytest.raises(ConfigurationError, match="'ndb' is not a name of a socket of duplexd"):
        passed_sockets(manager.environment("ndb"), FIRST)


def test_control_over_tcp_is_configured_and_not_passed(manager: Manager) -> None:
    manager.tcp()
    with pytest.raises(ConfigurationError, match="`control` names one Unix socket"):
        passed_sockets(manager.environment("control"), FIRST)


def test_what_does_not_listen_is_a_mistake(manager: Manager) -> None:
    manager.add(socket.socket(socket.AF_UNIX))
    with pytest.raises(ConfigurationError, match="not a listening stream socket"):
        passed_sockets(manager.environment(), FIRST)


def test_a_descriptor_that_is_not_open_is_a_mistake(manager: Manager) -> None:
    variables = {**manager.environment(), "LISTEN_FDS": "1"}
    with pytest.raises(ConfigurationError, match=r"descriptor 700 .* Bad file descriptor"):
        passed_sockets(variables, FIRST)
