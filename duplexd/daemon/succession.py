"""What a daemon leaves to the program that takes its place in the process: sockets and clients.

    bequeath(Estate(...))      in the one that ends; does not return if it succeeds
    estate = inherited()       in the one that begins

The process stays, and with it the descriptors that are passed on; so the service manager sees no
restart. What they are is in a file in memory: a line of JSON, then the bytes that it counts. The
variable names the process and the descriptor, so that no child takes them for its own.

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
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from duplexd.nbd.negotiated import Negotiated
from duplexd.nbd_server.handed import Handed
from duplexd.net.activation import NOTHING_PASSED, Passed
from duplexd.net.address import parse_address
from duplexd.net.listen import BoundSocket

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping, Sequence

    from duplexd.json_object import Json
    from duplexd.net.address import Address, UnixAddress

FORMAT = 1
READS = (1,)  # formats that this program can take
VARIABLE = "DUPLEXD_ESTATE"  # PID:DESCRIPTOR

_SIZE = struct.Struct(">Q")  # of the line
# Python ends the process with these until its handlers are there, so they wait in the kernel
HELD_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Estate(NamedTuple):
    """`listening`: sockets for NBD clients, by the address that they were configured with.
    `passed`: those that a service manager made. `began_ns`: since when clients have to wait
    (CLOCK_MONOTONIC). `lost`: how many of them could not be kept. `version`: that of the program
    that ended; `id`: of this restart. `failed`: why the next program could not be started, in one
    that goes on itself.
    """

    listening: Sequence[tuple[Address, BoundSocket]] = ()
    passed: Passed = NOTHING_PASSED
    control: BoundSocket | None = None
    clients: Sequence[Handed] = ()
    began_ns: int = 0
    lost: int = 0
    version: str = ""
    id: str = ""
    failed: str = ""

    def close(self) -> None:
        """Nobody goes on with it."""
        for _address, bound in self.listening:
            bound.close()
        for each in (*self.passed.nbd, self.passed.control, self.control):
            if each is not None:
                each.close()
        for client in self.clients:
            client.sock.close()

    def control_at(self, address: UnixAddress) -> BoundSocket | None:
        """The control socket, if that is where it is to be now; otherwise it is closed."""
        if self.control is not None and self.control.address != address:
            self.control.close()
            return None
        return self.control


NOTHING_LEFT = Estate()


def _never() -> bool:
    return False


def bequeath(
    estate: Estate,
    command: Sequence[str],
    is_stopped: Callable[[], bool] = _never,
    environment: MutableMapping[str, str] = os.environ,
) -> None:
    """Become the program `command`, with all of the estate. Returns if `is_stopped` by then; raises
    OSError if the program is not there. Nothing has changed then.
    """
    file = os.fdopen(os.memfd_create("duplexd-estate", os.MFD_CLOEXEC), "r+b")
    with file, contextlib.ExitStack() as undo:
        _write(file, estate)
        for fd in [file.fileno(), *_descriptors(estate)]:
            os.set_inheritable(fd, True)
            undo.callback(os.set_inheritable, fd, False)
        hold_signals()
        undo.callback(take_signals)
        given = {**environment, VARIABLE: f"{os.getpid()}:{file.fileno()}"}
        if is_stopped():
            return
        os.execve(command[0], list(command), given)  # noqa: S606  no shell is wanted


def inherited(environment: MutableMapping[str, str] = os.environ) -> Estate | None:
    """What the program before this one left, once; None if there was none.

    The signals that it held are to be taken with `take_signals` once there are handlers.
    """
    pid, _, descriptor = environment.pop(VARIABLE, "").partition(":")
    if pid != str(os.getpid()):
        return None
    with os.fdopen(int(descriptor), "rb") as file:
        file.seek(0)
        return _read(file)


def hold_signals() -> None:
    """Those that come from now on wait in the kernel."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)


def take_signals() -> None:
    """Those that came meanwhile are delivered now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)


def _descriptors(estate: Estate) -> list[int]:
    sockets = [bound.sock for _address, bound in estate.listening]
    sockets += [bound.sock for bound in estate.passed.nbd]
    sockets += [bound.sock for bound in (estate.passed.control, estate.control) if bound]
    sockets += [client.sock for client in estate.clients]
    return [sock.fileno() for sock in sockets]


def _write(file: BinaryIO, estate: Estate) -> None:
    blobs: list[bytes] = []

    def client(each: Handed) -> Json:
        blobs.extend((each.unread, each.unsent))
        agreed = each.negotiated
        return {
            "fd": each.sock.fileno(),
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

    passed = estate.passed
    line = json.dumps(
        {
            "format": FORMAT,
            "version": estate.version,
            "id": estate.id,
            "began_ns": estate.began_ns,
            "lost": estate.lost,
            "listening": [[str(address), each.sock.fileno()] for address, each in estate.listening],
            "passed": [each.sock.fileno() for each in passed.nbd],
            "passed_control": passed.control and passed.control.sock.fileno(),
            "control": estate.control and estate.control.sock.fileno(),
            "clients": [client(each) for each in estate.clients],
        }
    ).encode()
    file.write(_SIZE.pack(len(line)) + line)
    file.writelines(blobs)
    file.flush()


def _read(file: BinaryIO) -> Estate:
    line = json.loads(file.read(_SIZE.unpack(file.read(_SIZE.size))[0]))

    def client(each: Json) -> Handed:
        contexts = tuple((number, name) for number, name in each["contexts"])
        return Handed(
            _socket(each["fd"]),
            parse_address(each["listener"]),
            each["volume"],
            each["size"],
            each["flags"],
            Negotiated(each["structured"], each["extended"], contexts),
            file.read(each["unread"]),
            file.read(each["unsent"]),
        )

    def bound(fd: int | None, ours: bool = True) -> BoundSocket | None:
        return None if fd is None else BoundSocket(_socket(fd), ours)

    passed = [BoundSocket(_socket(fd), ours=False) for fd in line["passed"]]
    return Estate(
        [(parse_address(text), BoundSocket(_socket(fd))) for text, fd in line["listening"]],
        Passed(passed, bound(line["passed_control"], ours=False)),
        bound(line["control"]),
        [client(each) for each in line["clients"]],
        line["began_ns"],
        line["lost"],
        line["version"],
        line["id"],
    )


def _socket(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock
