"""The watcher against a driver of this file: it has as many places for connections as a device has,
and like the kernel it says nothing of a connection that it has no place for.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from duplexd.attach.export import Connection, Promised
from duplexd.attach.netlink import Device
from duplexd.attach.watcher import Watcher
from duplexd.errors import UnreachableError, WrongStateError
from duplexd.limits import AttachLimits
from duplexd.nbd.messages import REQUEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROMISED = Promised("duplexd volume data, lineage 1", 1 << 20, 0x12C, 2)
PATIENCE_S = 60.0
LIMITS = AttachLimits(
    retry_seconds_min=0.01, retry_seconds_max=0.02, look_seconds=PATIENCE_S, size_seconds=0.02
)


class Server:
    """Connections to it, and what it says of its volume."""

    def __init__(self) -> None:
        self.peers: list[socket.socket] = []
        self.identity, self.size, self.flags = PROMISED.identity, PROMISED.size, PROMISED.flags
        self.is_up = True
        self.opened = 0

    def open(self) -> Connection:
        if not self.is_up:
            raise UnreachableError("nobody listens")
        ours, theirs = socket.socketpair()
        self.peers.append(theirs)
        self.opened += 1
        return Connection(ours, self.size, self.flags, 512, self.identity)

    def look(self) -> Connection:
        if not self.is_up:
            raise UnreachableError("nobody listens")
        with socket.socket() as closed:
            return Connection(closed, self.size, self.flags, 512, self.identity)

    def die(self) -> None:
        peers, self.peers = self.peers, []
        for peer in peers:
            peer.close()


class Driver:
    """`places`: its own descriptors of sockets."""

    def __init__(self, server: Server) -> None:
        self.notices, self._kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notices.setblocking(False)
        self.places = [server.open().sock for _ in range(PROMISED.connections)]
        self.is_attached, self.backend = True, str(PROMISED)
        self.number, self.path, self.size = 0, "/dev/nbd0", PROMISED.size

    def notice(self) -> None:
        self._kernel.send(b".")

    def noticed(self, _index: int) -> bool:
        found = False
        with suppress(BlockingIOError):
            while self.notices.recv(16):
                found = True
        return found

    def replace(self, _device: Device, sock: socket.socket) -> bool:
        if not self.is_attached:
            raise WrongStateError("not attached")
        for number, place in enumerate(self.places):
            if has_ended(place):
                place.close()
                self.places[number] = sock.dup()
                return True
        return False

    def resize(self, _device: Device, size: int) -> None:
        self.size = size

    @property
    def live(self) -> int:
        return sum(not has_ended(place) for place in self.places)


def has_ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False


class Run:
    """A watcher in a thread."""

    def __init__(self, driver: Driver, server: Server, *, taken_over: bool) -> None:
        self.driver, self.server = driver, server
        self.said: list[tuple[str, dict[str, object]]] = []
        self.changed = threading.Condition()
        self.result: bool | None = None
        self._stop, self._stopped = socket.socketpair()
        known = [] if taken_over else [place.dup() for place in driver.places]
        device = Device(0, 30, 60, str(PROMISED))
        told = self._say, self._status
        self.watcher = Watcher(
            driver, driver, device, PROMISED, known, server.open, server.look, *told, LIMITS
        )
        self.status = ""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.result = self.watcher.run(self._stopped)
        with self.changed:
            self.changed.notify_all()

    def _say(self, event: str, **fields: object) -> None:
        with self.changed:
            self.said.append((event, fields))
            self.changed.notify_all()

    def _status(self, line: str) -> None:
        with self.changed:
            self.status = line
            self.changed.notify_all()

    def wait(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        with self.changed:
            while not reached():
                assert time.monotonic() < deadline, (self.said, self.status)
                self.changed.wait(0.01)  # what the server counts is not announced

    def events(self, name: str) -> list[dict[str, object]]:
        return [fields for event, fields in self.said if event == name]

    def stop(self) -> bool | None:
        self._stop.send(b".")
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self.watcher.close()
        return self.result

    def end(self) -> None:
        self.stop()
        for each in (self._stop, self._stopped, self.driver.notices, self.driver._kernel):
            each.close()
        for place in self.driver.places:
            place.close()
        self.server.die()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def driver(server: Server) -> Driver:
    return Driver(server)


@pytest.fixture
def run(driver: Driver, server: Server) -> Iterator[Run]:
    run = Run(driver, server, taken_over=False)
    yield run
    run.end()


@pytest.fixture
def later(driver: Driver, server: Server) -> Iterator[Run]:
    """The process after one that was killed: it knows none of the connections."""
    run = Run(driver, server, taken_over=True)
    yield run
    run.end()


def test_connections_that_end_are_replaced(run: Run, server: Server, driver: Driver) -> None:
    for round_number in (1, 2):
        server.die()
        run.wait(lambda: len(run.events("reconnected")) == 2 * round_number)  # noqa: B023
        assert driver.live == PROMISED.connections
    assert run.status == "/dev/nbd0 is attached"


def test_while_the_server_is_away_it_is_asked_again_and_the_log_has_one_line_of_it(
    run: Run, server: Server
) -> None:
    server.is_up = False
    server.die()
    run.wait(lambda: run.status == "0 of 2 connections; trying again: nobody listens")
    server.is_up = True
    run.wait(lambda: len(run.events("reconnected")) == 2)
    assert len(run.events("waiting")) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"identity": "duplexd volume data, lineage 2"}, "lineage 2"),
        ({"size": 1 << 19}, "524288 bytes"),
        ({"flags": 3}, "flags"),
    ],
)
def test_another_volume_is_not_handed_over(
    run: Run, server: Server, driver: Driver, change: dict[str, object], why: str
) -> None:
    good = {name: getattr(server, name) for name in change}
    for name, value in change.items():
        setattr(server, name, value)
    server.die()
    run.wait(lambda: bool(run.events("not-handed-over")))
    assert why in str(run.events("not-handed-over")[0]["error"])
    assert why in run.status
    opened = server.opened
    run.wait(lambda: server.opened > opened + 1)
    assert driver.live == 0
    assert len(run.events("not-handed-over")) == 1
    for name, value in good.items():
        setattr(server, name, value)
    run.wait(lambda: len(run.events("reconnected")) == 2)


def test_a_volume_that_grows_makes_its_device_larger_with_the_connections_it_has(
    run: Run, server: Server, driver: Driver
) -> None:
    opened, server.size = server.opened, 1 << 21
    run.wait(lambda: driver.size == 1 << 21)
    run.wait(lambda: run.events("resized") == [{"size": 1 << 21}])
    assert (server.opened, driver.live) == (opened, PROMISED.connections)


def test_a_volume_that_grew_while_its_server_was_away_is_handed_over(
    run: Run, server: Server, driver: Driver
) -> None:
    server.is_up = False
    server.die()
    run.wait(lambda: bool(run.events("waiting")))
    server.size, server.is_up = 1 << 21, True
    run.wait(lambda: driver.size == 1 << 21)
    assert driver.live == PROMISED.connections
    assert not run.events("not-handed-over")


@pytest.mark.parametrize("change", [{"size": 1 << 19}, {"identity": "another", "size": 1 << 21}])
def test_a_device_does_not_follow_a_smaller_volume_or_another_one(
    run: Run, server: Server, driver: Driver, change: dict[str, object]
) -> None:
    looks = 0
    look = server.look

    def counted() -> Connection:
        nonlocal looks
        looks += 1
        return look()

    run.watcher._look = counted
    for name, value in change.items():
        setattr(server, name, value)
    run.wait(lambda: looks > 2)
    assert driver.size == PROMISED.size
    assert not run.events("resized")


def test_a_device_that_is_taken_over_is_offered_one_connection_and_left_as_it_is(
    later: Run, server: Server, driver: Driver
) -> None:
    before = list(driver.places)
    later.wait(lambda: server.opened == PROMISED.connections + 1)
    offered = server.peers[-1]
    offered.settimeout(PATIENCE_S)
    assert len(offered.recv(64)) == REQUEST.size  # a goodbye
    assert offered.recv(64) == b""
    assert later.stop() is True
    assert server.opened == PROMISED.connections + 1
    assert driver.places == before
    assert not later.events("reconnected")


def test_after_a_take_over_a_notice_of_the_driver_says_that_one_has_ended(
    later: Run, server: Server, driver: Driver
) -> None:
    later.wait(lambda: server.opened == PROMISED.connections + 1)
    server.die()
    driver.notice()
    later.wait(lambda: len(later.events("reconnected")) == 2)
    assert driver.live == PROMISED.connections


def test_it_ends_when_somebody_detached_the_device(
    run: Run, server: Server, driver: Driver
) -> None:
    driver.is_attached = False
    server.die()
    run.wait(lambda: run.result is not None)
    assert run.result is False


def test_it_leaves_a_device_alone_that_somebody_else_has_attached_meanwhile(
    run: Run, server: Server, driver: Driver
) -> None:
    driver.backend = ""
    server.die()
    run.wait(lambda: run.result is not None)
    assert run.result is False
    assert driver.live == 0


def test_a_signal_ends_it_and_the_driver_keeps_its_connections(run: Run, driver: Driver) -> None:
    assert run.stop() is True
    assert driver.live == PROMISED.connections
