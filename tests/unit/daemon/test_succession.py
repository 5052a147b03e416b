"""What one program leaves to the next goes over a link, whole, or not at all."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from duplexd import __version__
from duplexd.daemon.link import READY, Link, linked
from duplexd.daemon.succession import Estate
from duplexd.daemon.successor import WRITES, succeed
from duplexd.errors import WrongStateError
from duplexd.nbd.negotiated import Negotiated
from duplexd.nbd_server.handed import Handed
from duplexd.net.activation import Passed
from duplexd.net.address import TcpAddress, UnixAddress
from duplexd.net.listen import bind
from tests.unit.daemon.files import config

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.net.listen import BoundSocket

CLIENTS = 600  # more than the kernel takes in one message, twice


def both() -> tuple[Link, Link]:
    ours, theirs = linked()
    return ours, Link(theirs)


def listening(path: Path) -> BoundSocket:
    (found,) = bind(UnixAddress(str(path)))
    return found


def client(number: int) -> tuple[socket.socket, Handed]:
    theirs, ours = socket.socketpair()
    agreed = Negotiated(number % 2 == 1, number % 3 == 0, ((number, f"context-{number}"),))
    listener = TcpAddress("localhost", number + 1)
    unread, unsent = os.urandom(number), os.urandom(number // 2)
    return theirs, Handed(ours, listener, f"v{number}", number << 30, 7, agreed, unread, unsent)


def test_everything_arrives_as_it_was(tmp_path: Path) -> None:
    clients = [client(number) for number in range(CLIENTS)]
    nbd, control = listening(tmp_path / "nbd"), listening(tmp_path / "control")
    passed = listening(tmp_path / "passed")
    passed.ours = False
    given = Estate(
        [(UnixAddress("as configured"), nbd)], Passed([passed]), control,
        [handed for _theirs, handed in clients], 12, 3, "1.2.3", "id", 45, settings="[nbd] # ü",
    )  # fmt: skip
    gives, takes = both()
    found: list[Estate | None] = []
    taking = threading.Thread(target=lambda: found.append(takes.take()))
    taking.start()
    assert gives.hear() == f"{READY} {__version__}"
    gives.give(given)
    taking.join()
    (taken,) = found
    assert taken is not None
    assert taken[4:] == given[4:]
    assert [address for address, _bound in taken.listening] == [UnixAddress("as configured")]
    assert taken.listening[0][1].address == nbd.address
    assert taken.control is not None
    assert taken.control.address == control.address
    assert [(each.address, each.ours) for each in taken.passed.nbd] == [(passed.address, False)]
    for (theirs, handed), each in zip(clients, taken.clients, strict=True):
        assert each[1:] == handed[1:]
        theirs.send(handed.volume.encode())
        assert each.sock.recv(100) == handed.volume.encode()
    taken.disown()
    assert (tmp_path / "nbd").exists()
    given.close()
    assert not (tmp_path / "nbd").exists()
    assert (tmp_path / "passed").exists()
    for theirs, _handed in clients:
        theirs.close()
    gives.close()
    takes.close()


def test_a_control_socket_whose_file_was_removed_is_not_gone_on_with(tmp_path: Path) -> None:
    control = listening(tmp_path / "control")
    address = UnixAddress(str(tmp_path / "control"))
    assert Estate(control=control).control_at(address) is control
    (tmp_path / "control").unlink()
    assert Estate(control=control).control_at(address) is None
    assert control.sock.fileno() == -1


def test_a_program_that_has_ended_is_heard() -> None:
    gives, takes = both()
    gives.close()
    assert takes.hear() == ""
    takes.say(READY)  # and nothing happens
    takes.give(Estate())
    assert takes.take() is None


def test_of_an_estate_that_is_not_whole_nothing_stays_open() -> None:
    """Its clients would wait for ever."""
    ours, theirs = linked()
    takes, (theirs_client, handed) = Link(theirs), client(0)
    descriptor = os.memfd_create("estate")
    with socket.socket(fileno=os.dup(ours.fileno())) as half:
        socket.send_fds(half, [b'{"descriptors": 2}'], [descriptor])
        socket.send_fds(half, [b"d"], [handed.sock.fileno()])
    os.close(descriptor)
    handed.sock.close()
    ours.close()
    assert takes.take() is None
    assert theirs_client.recv(1) == b""
    theirs_client.close()


def test_an_estate_that_cannot_be_sent_whole_ends_both_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel limits how many descriptors may be on their way."""
    sent, send = list[bytes](), socket.send_fds

    def limited(sock: socket.socket, buffers: list[bytes], descriptors: list[int]) -> int:
        if sent:
            raise OSError(errno.ETOOMANYREFS, "Too many references")
        sent.extend(buffers)
        return send(sock, buffers, descriptors)

    gives, takes = both()
    theirs, handed = client(0)
    with monkeypatch.context() as full:
        full.setattr(socket, "send_fds", limited)
        gives.give(Estate(clients=[handed]))
    assert takes.take() is None
    assert gives.hear(60) == ""
    handed.sock.close()
    theirs.close()
    gives.close()


def test_an_estate_that_this_process_cannot_open_whole_is_none() -> None:
    gives, takes = both()
    clients = [client(number) for number in range(8)]
    gives.give(Estate(clients=[handed for _theirs, handed in clients]))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)  # further ones have larger numbers
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 3, hard))
    try:
        assert takes.take() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for theirs, handed in clients:
        handed.sock.close()
        assert theirs.recv(1) == b"", "what was opened of it is closed"
        theirs.close()
    gives.close()


def test_who_waits_is_told_that_it_lasts() -> None:
    ours, theirs = both()
    assert ours.hear(2.0, lambda: theirs.say("at last")) == "at last"
    ours.close()
    theirs.close()


@pytest.mark.parametrize("what", WRITES)
def test_a_format_that_is_not_known_is_refused(tmp_path: Path, what: str) -> None:
    newer = {**WRITES, what: 99}
    formats = [f"{each}={number}" for each, number in newer.items()]
    with pytest.raises(WrongStateError, match=f"writes {what}=99"):
        succeed(str(config(tmp_path).source), "", formats)
