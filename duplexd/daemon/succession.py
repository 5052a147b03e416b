"""What a daemon leaves to the program that takes its place: sockets and clients.

A line of JSON, then the bytes that it counts, in a file in memory; and descriptors, which the line
names by their place in a list.

The two programs may be of different versions, in either order. `FORMAT` is that of the file. A
program says which ones it reads (`duplexd successor`) before anything is given up, and likewise of
the checkpoint and the journal.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import threading
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from duplexd.nbd.negotiated import Negotiated
from duplexd.nbd_server.handed import Handed
from duplexd.net.activation import NOTHING_PASSED, Passed
from duplexd.net.address import parse_address
from duplexd.net.listen import BoundSocket

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duplexd.json_object import Json
    from duplexd.net.address import Address, UnixAddress

FORMAT = 1
READS = (1,)  # formats that this program can take

_SIZE = struct.Struct(">Q")  # of the line
# Python ends the process with these until its handlers are there, so they wait in the kernel
HELD_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Estate(NamedTuple):
    """`listening`: sockets for NBD clients, by the address that they were configured with.
    `passed`: those that a service manager made. `began_ns`: since when clients have to wait
    (CLOCK_MONOTONIC). `lost`: how many of them could not be kept. `version`: that of the program
    that ended; `id`: of this restart. `pause_ns`: how long they had to wait before that, in the
    first half of a restart. `failed`: why the next program could not be started, in one that goes
    on itself. `settings`: of a stand-in, the text of the configuration that it has checked.
    """

    listening: Sequence[tuple[Address, BoundSocket]] = ()
    passed: Passed = NOTHING_PASSED
    control: BoundSocket | None = None
    clients: Sequence[Handed] = ()
    began_ns: int = 0
    lost: int = 0
    version: str = ""
    id: str = ""
    pause_ns: int = 0
    failed: str = ""
    settings: str = ""

    def close(self) -> None:
        """Nobody goes on with it."""
        for each in self._bound():
            each.remove_file()
        self.disown()

    def _bound(self) -> list[BoundSocket]:
        more = (*self.passed.nbd, self.passed.control, self.control)
        return [bound for _address, bound in self.listening] + [each for each in more if each]

    def disown(self) -> None:
        """Somebody else goes on with it: the sockets are closed here, their files stay."""
        for each in self._bound():
            each.sock.close()
        for client in self.clients:
            client.sock.close()

    def control_at(self, address: UnixAddress) -> BoundSocket | None:
        """The control socket, if that is where it is to be now; otherwise it is closed."""
        control = self.control
        if control is not None and (control.address != address or control.is_lost):
            control.close()
            return None
        return control


NOTHING_LEFT = Estate()


def hold_signals() -> None:
    """Those that come from now on wait in the kernel."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)


def take_signals() -> None:
    """Those that came meanwhile are delivered now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)


def send_again(came: set[int]) -> None:
    """Signals that came, and that nobody has acted on: the kernel has them, also over an exec."""
    for number in came:
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    came.clear()


@contextlib.contextmanager
def packed(estate: Estate) -> Iterator[tuple[BinaryIO, list[int]]]:
    """A file with all of it, and the descriptors that go with it."""
    sockets: list[socket.socket] = []
    with os.fdopen(os.memfd_create("duplexd-estate", os.MFD_CLOEXEC), "r+b") as file:
        _write(file, estate, sockets)
        yield file, [sock.fileno() for sock in sockets]


def _write(file: BinaryIO, estate: Estate, sockets: list[socket.socket]) -> None:
    blobs: list[bytes] = []

    def place(sock: socket.socket) -> int:
        sockets.append(sock)
        return len(sockets) - 1

    def client(each: Handed) -> Json:
        blobs.extend((each.unread, each.unsent))
        agreed = each.negotiated
        return {
            "socket": place(each.sock),
            "listener": str(each.listener),
            "volume": each.volume,
            "size": each.size,
            "flags": each.flags,
            "structured": agreed.structured,
            "extended": agreed.extended,
            "contexts": [list(context) for context in agreed.contexts],
            "unread": len(each.unread),
            "unsent": len(each.unsent),
        }

    passed, control = estate.passed, estate.control
    line = json.dumps(
        {
            "format": FORMAT,
            "version": estate.version,
            "id": estate.id,
            "began_ns": estate.began_ns,
            "pause_ns": estate.pause_ns,
            "lost": estate.lost,
            "settings": estate.settings,
            "listening": [[str(address), place(each.sock)] for address, each in estate.listening],
            "passed": [place(each.sock) for each in passed.nbd],
            "passed_control": None if passed.control is None else place(passed.control.sock),
            "control": None if control is None else place(control.sock),
            "clients": [client(each) for each in estate.clients],
        }
    ).encode()
    file.write(_SIZE.pack(len(line)) + line)
    file.writelines(blobs)
    file.flush()


def unpacked(file: BinaryIO, descriptors: Sequence[int]) -> Estate:
    """What `packed` made of it; the descriptors are this process's own."""
    file.seek(0)
    line = json.loads(file.read(_SIZE.unpack(file.read(_SIZE.size))[0]))

    def client(each: Json) -> Handed:
        contexts = tuple((number, name) for number, name in each["contexts"])
        return Handed(
            taken(each["socket"]),
            parse_address(each["listener"]),
            each["volume"],
            each["size"],
            each["flags"],
            Negotiated(each["structured"], each["extended"], contexts),
            file.read(each["unread"]),
            file.read(each["unsent"]),
        )

    def taken(place: int) -> socket.socket:
        sock = socket.socket(fileno=descriptors[place])
        sock.setblocking(False)
        return sock

    def bound(place: int | None, ours: bool = True) -> BoundSocket | None:
        return None if place is None else BoundSocket(taken(place), ours)

    passed = [BoundSocket(taken(place), ours=False) for place in line["passed"]]
    return Estate(
        [(parse_address(text), BoundSocket(taken(place))) for text, place in line["listening"]],
        Passed(passed, bound(line["passed_control"], ours=False)),
        bound(line["control"]),
        [client(each) for each in line["clients"]],
        line["began_ns"],
        line["lost"],
        line["version"],
        line["id"],
        line["pause_ns"],
        settings=line.get("settings", ""),  # not written by earlier versions
    )
