"""Binding sockets: modes and groups, what may be replaced, what an error leaves behind."""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import ConfigurationError, DuplexdError, WrongStateError
from duplexd.net.address import TcpAddress, UnixAddress, parse_address
from duplexd.net.allow import group_id
from duplexd.net.listen import BoundSocket, bind, bind_all
from tests.support.daemon import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "127.0.0.1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.sock"


@pytest.fixture
def bound(path: Path) -> Iterator[BoundSocket]:
    """A socket that another program listens on."""
    (bound,) = bind(UnixAddress(str(path)))
    yield bound
    bound.close()


def connect(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)


# Unix sockets


def test_a_socket_whose_file_somebody_removed_is_lost(bound: BoundSocket, path: Path) -> None:
    before = bound.is_lost
    path.unlink()
    assert (before, bound.is_lost) == (False, True)
    again = BoundSocket(bound.sock.dup())  # as another program takes it over
    assert again.is_lost
    again.close()


def test_a_socket_that_was_passed_and_one_of_tcp_are_never_lost(
    bound: BoundSocket, path: Path
) -> None:
    path.unlink()
    passed = BoundSocket(bound.sock.dup(), ours=False)
    assert not passed.is_lost
    passed.close()
    (tcp,) = bind(TcpAddress(HOST, 0))
    assert not tcp.is_lost
    tcp.close()


def test_a_socket_is_for_owner_and_group_whatever_the_umask(path: Path) -> None:
    umask = os.umask(0o077)
    try:
        (bound,) = bind(UnixAddress(str(path)), group=os.getgid())
    finally:
        os.umask(umask)
    found = path.stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert found.st_gid == os.getgid()
    connect(str(path))
    bound.close()
    assert not path.exists()


def test_missing_directories_are_made_where_wanted(tmp_path: Path) -> None:
    address = UnixAddress(f"{tmp_path}/run/duplexd/c.sock")
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        bind(address)
    (bound,) = bind(address, make_parents=True)
    connect(address.path)
    bound.close()


def test_a_socket_without_a_listener_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    (bound,) = bind(UnixAddress(str(path)))
    connect(str(path))
    bound.close()


def test_a_socket_that_answers_is_left_alone(bound: BoundSocket, path: Path) -> None:
    inode = path.stat().st_ino
    with pytest.raises(WrongStateError, match="another process is listening there; stop it or"):
        bind(UnixAddress(str(path)))
    assert path.stat().st_ino == inode


def test_a_socket_with_a_full_backlog_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(str(path))
        busy.listen(0)
        client.connect(str(path))
        with pytest.raises(WrongStateError, match="another process is listening there"):
            bind(UnixAddress(str(path)))
    assert path.exists()


def test_a_file_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="the file exists and is not a socket; remove it"):
        bind(UnixAddress(str(path)))
    assert path.read_text() == "precious"


def test_the_file_of_another_is_not_removed(bound: BoundSocket, path: Path) -> None:
    path.rename(path.with_name("old"))
    path.write_text("another's")
    bound.remove_file()
    assert path.exists()


def test_a_group_that_cannot_be_given_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(
        ConfigurationError, match=rf"^control\.socket: cannot listen on unix:{path}: "
    ):
        bind(UnixAddress(str(path)), "control.socket", group=1)
    assert not path.exists()


def test_a_group_is_a_name_or_a_number() -> None:
    assert group_id("control.group", "12345") == 12345
    assert group_id("control.group", grp.getgrgid(os.getgid()).gr_name) == os.getgid()
    with pytest.raises(
        ConfigurationError, match=r"^control\.group: there is no group 'nosuch' .* groupadd"
    ):
        group_id("control.group", "nosuch")


# TCP


def test_the_port_that_0_became_is_known() -> None:
    (bound,) = bind(TcpAddress(HOST, 0))
    assert isinstance(bound.address, TcpAddress)
    assert bound.address.port != 0
    with socket.create_connection((HOST, bound.address.port)):
        pass
    bound.close()


def test_ipv6_is_ipv6_alone() -> None:
    port = free_port()
    sockets = bind_all([TcpAddress("::1", port), TcpAddress(HOST, port)], "listen")
    assert [each.address for each in sockets] == [TcpAddress("::1", port), TcpAddress(HOST, port)]
    for each in sockets:
        each.close()


# Errors


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("unix:/nowhere/at/all/s", ConfigurationError),
        ("unix:" + "x" * 200, ConfigurationError),
        ("tcp:192.0.2.1:0", WrongStateError),
        ("tcp:no.such.host.invalid:0", WrongStateError),
    ],
)
def test_an_address_that_cannot_be_bound_is_named_and_is_a_mistake_or_may_come(
    text: str, kind: type[DuplexdError]
) -> None:
    with pytest.raises(kind, match=r"^nbd\.listen: cannot listen on ") as raised:
        bind(parse_address(text), "nbd.listen")
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


def test_all_or_none_of_a_list_are_bound(path: Path) -> None:
    free = free_port()
    with socket.create_server((HOST, 0)) as other:
        taken = TcpAddress(HOST, other.getsockname()[1])
        expected = rf"^control\.tls\.listen\[2\]: cannot listen on {taken}: Address already in use$"
        with pytest.raises(WrongStateError, match=expected):
            bind_all([UnixAddress(str(path)), TcpAddress(HOST, free), taken], "control.tls.listen")
    socket.create_server((HOST, free)).close()
    assert not path.exists()
