"""The process of the file system: `python -m tests.support.fuse.server MOUNT_POINT BELOW [FLAGS]`.

Threads read requests from /dev/fuse and answer them. A request that a hang meets is put aside, not
waited with, so that any number of them can hang. Commands come as JSON lines on standard input, and
are answered on standard output; at its end, also because the test died, the file system goes.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import sys
import threading
from random import Random
from typing import TYPE_CHECKING, NamedTuple, TextIO

from tests.support.fuse import mounting, protocol
from tests.support.fuse.faults import Fault, FaultTable
from tests.support.fuse.operations import KINDS, describe
from tests.support.fuse.passthrough import PassThrough
from tests.support.fuse.protocol import Opcode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.fuse.faults import Operation
    from tests.support.fuse.operations import Kind
    from tests.support.fuse.protocol import Request

THREADS = 4
# A test that hangs on its own disk, in the kernel, cannot even be ended by its time-out.
LIFE_SECONDS_MAX = 300


class Parked(NamedTuple):
    """A request that hangs."""

    request: Request
    fault: int
    killable: bool


class Server:
    """Requests, faults, and what hangs."""

    def __init__(self, files: PassThrough, fuse_fd: int) -> None:
        self._files = files
        self._fd = fuse_fd
        self._lock = threading.Lock()
        self._faults = FaultTable()
        self._parked: dict[int, Parked] = {}
        self._interrupted: set[int] = set()

    def serve(self) -> None:
        """Until the file system is unmounted."""
        buffer = memoryview(bytearray(protocol.BUFFER_BYTES))
        while True:
            try:
                length = os.readv(self._fd, [buffer])
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in {errno.EINTR, errno.EAGAIN, errno.ENOENT}:
                    continue
                raise
            self._take(protocol.parse(buffer[:length]))

    def _take(self, request: Request) -> None:
        if request.opcode == Opcode.INIT:
            _, minor, readahead, flags = protocol.INIT_IN.unpack_from(request.body)
            self._reply(protocol.answer(request.unique, protocol.init_out(minor, readahead, flags)))
        elif request.opcode == Opcode.FORGET:
            self._files.tree.forget(request.node, protocol.U64.unpack_from(request.body)[0])
        elif request.opcode == Opcode.BATCH_FORGET:
            count = protocol.U32.unpack_from(request.body)[0]
            for node, lookups in protocol.FORGET_ONE.iter_unpack(request.body[8 : 8 + 16 * count]):
                self._files.tree.forget(node, lookups)
        elif request.opcode == Opcode.INTERRUPT:
            self._interrupt(protocol.U64.unpack_from(request.body)[0])
        elif (kind := KINDS.get(request.opcode)) is None:
            self._reply(protocol.failure(request.unique, errno.ENOSYS))
        else:
            self._decide(kind, request)

    def _decide(self, kind: Kind, request: Request) -> None:
        """Carry the request out, fail it, or put it aside."""
        if not kind.name:
            self._run(kind, request)
            return
        operation = describe(kind, request, self._files.tree)
        with self._lock:
            number = self._faults.meets(operation)
            fault = None if number is None else self._faults.faults[number]
            if number is not None and fault is not None and fault.error is None:
                if request.unique in self._interrupted and fault.killable:
                    self._interrupted.discard(request.unique)
                    self._reply(protocol.failure(request.unique, errno.EINTR))
                else:
                    self._parked[request.unique] = Parked(request.keep(), number, fault.killable)
                return
        if fault is not None and fault.error is not None:
            self._reply(protocol.failure(request.unique, fault.error))
        else:
            self._run(kind, request, operation)

    def _run(self, kind: Kind, request: Request, operation: Operation | None = None) -> None:
        try:
            parts = kind.run(self._files, request)
        except OSError as error:
            self._reply(protocol.failure(request.unique, error.errno or errno.EIO))
            return
        if operation is not None and operation.name == "write":
            with self._lock:
                self._faults.cure(operation)
        self._reply(protocol.answer(request.unique, *parts))

    def _reply(self, parts: list[bytes]) -> None:
        # ENOENT: the process that waited for it is gone
        with contextlib.suppress(FileNotFoundError):
            os.writev(self._fd, parts)

    def _interrupt(self, unique: int) -> None:
        """A signal came to the task that waits for this request."""
        with self._lock:
            parked = self._parked.get(unique)
            if parked is None:
                self._interrupted.add(unique)  # it is still in another thread's hand, or done
            elif parked.killable:
                del self._parked[unique]
                self._reply(protocol.failure(unique, errno.EINTR))

    # --------------------------------------------------------------------------------- commands

    def command(self, words: Mapping[str, object]) -> Mapping[str, object]:
        """One command of the test."""
        match words:
            case {"do": "add", "fault": dict(fields)}:
                with self._lock:
                    operations = tuple(fields.pop("operations"))
                    return {"number": self._faults.add(Fault(operations, **fields))}
            case {"do": "lift", "number": int() | None as number, "error": int(error)}:
                return {"ended": self._lift(number, error)}
            case {"do": "met", "number": int(number)}:
                with self._lock:
                    hanging = sum(one.fault == number for one in self._parked.values())
                    return {"met": self._faults.met[number], "hanging": hanging}
            case {"do": "limit", "bytes": int() | None as room}:
                self._files.limit(room)
                return {}
            case {"do": "forget", "seed": int() | None as seed}:
                choose = None if seed is None else Random(seed)
                return {"lost": self._files.forget_unsynced(choose)}
            case _:
                raise ValueError(f"not a command: {words}")

    def _lift(self, number: int | None, error: int) -> int:
        """End faults; what hangs of them is carried out now, late, or fails with `error`."""
        with self._lock:
            lifted = self._faults.lift(number)
            ended = [one for one in self._parked.values() if one.fault in lifted]
            for one in ended:
                del self._parked[one.request.unique]
        for one in ended:
            if error:
                self._reply(protocol.failure(one.request.unique, error))
            else:
                self._decide(KINDS[one.request.opcode], one.request)
        return len(ended)


def obey(server: Server, commands: TextIO) -> None:
    """Commands until the test has no more."""
    for line in commands:
        print(json.dumps(server.command(json.loads(line))), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mount_point")
    parser.add_argument("below")
    parser.add_argument("--cached", action="store_true")
    parser.add_argument("--volatile", action="store_true")
    arguments = parser.parse_args()
    files = PassThrough(arguments.below, arguments.cached, arguments.volatile)
    try:
        server = Server(files, mounting.mount(arguments.mount_point))
    except mounting.NoFuseError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    for _ in range(THREADS):
        threading.Thread(target=server.serve, daemon=True).start()
    print(json.dumps({"ready": True}), flush=True)
    end = threading.Timer(LIFE_SECONDS_MAX, leave, [arguments.mount_point])
    end.daemon = True
    end.start()
    obey(server, sys.stdin)
    leave(arguments.mount_point)


def leave(mount_point: str) -> None:
    """End at once, which answers all that hangs."""
    mounting.unmount(mount_point)
    os._exit(0)


if __name__ == "__main__":
    main()
