"""What the tracer does at each stop: name the call, note it, and, at one of them, let it fail or be
the last.

A call is named by its place in the day: the step, what it does, to which file, and how many of the
same kind came before it in this step. Not by a count over the day: threads make calls in varying
order, and what a timer does may come earlier or later.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from tests.support.system_calls.ptrace import CALLS, Call, Tracee, trace_me

if TYPE_CHECKING:
    from pathlib import Path

BEFORE, AFTER = "dies before", "dies after"
DAEMON_LOG = "daemon.log"
STEP_BYTES = 64  # always as many: there is no moment without a step
_CREATES = os.O_CREAT | (os.O_TMPFILE & ~os.O_DIRECTORY)
_AT_FDCWD = -100
_STRING_BYTES_MAX = 4096
# Where the path of a call is: argument of a descriptor, or of a directory and a name
_DESCRIPTORS = dict.fromkeys(CALLS, 0) | {"copy_file_range": 2}  # of those that are not below
_PATHS = {"truncate": 0, "rename": 1, "mkdir": 0, "rmdir": 0, "link": 1, "unlink": 0, "setxattr": 0}
_PATHS_AT = {"openat": 0, "mkdirat": 0, "unlinkat": 0, "renameat": 2, "linkat": 2, "renameat2": 2}
# What differs from run to run in a file's name
_VARIES = (
    (re.compile(r"#\d+ \(deleted\)$"), "(new)"),
    (re.compile(r"[^/]+-(\d{4})\.stg$"), r"JOB-\1.stg"),
    (re.compile(r"\.\d+\.new$"), ".PID.new"),
    (re.compile(r"\d{4}\.seg$"), "NNNN.seg"),
    (re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}\.maps"), "NNNN.maps"),
)


class Place(NamedTuple):
    """A call of the day: the `nth` of its kind on this file in this step."""

    step: str
    call: str
    file: str
    nth: int

    def __str__(self) -> str:
        return f"{self.step}: {self.call} {self.file}, number {self.nth}"


class Fault(NamedTuple):
    """What is to happen at a place: BEFORE, AFTER, or the name of an error."""

    place: Place
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


class Tracer:
    """Of a daemon whose files are in `directory`. The step is what the file `step` there says; the
    calls go to the file `calls`, one JSON list each, the fault's with a `true` at its end.
    """

    def __init__(self, pid: int, directory: Path, fault: Fault | None) -> None:
        self._tracee = Tracee(pid)
        self._root = f"{directory}/"
        self._step = os.open(directory / "step", os.O_RDONLY)
        self._calls = os.open(directory / "calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._fault = fault
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._names: dict[int, str] = {}  # of files that were made without one, by inode

    def run(self) -> None:
        """Until the daemon has ended."""
        self._tracee.run(self._stopped, self._ended)

    def _stopped(self, call: Call) -> None:
        file = self._file(call)
        if file is None:
            self._tracee.resume(call.thread)
            return
        step = os.pread(self._step, STEP_BYTES, 0).decode().strip()
        key = (step, call.name, file)
        self._counts[key] += 1
        place = Place(*key, self._counts[key])
        here = self._fault is not None and place == self._fault.place
        os.write(self._calls, json.dumps([*place, here]).encode() + b"\n")
        if self._fault is not None and here:
            self._strike(call.thread, self._fault.what)
        else:
            self._tracee.resume(call.thread)

    def _strike(self, thread: int, what: str) -> None:
        if what == BEFORE:
            self._tracee.kill()
        elif what == AFTER:
            self._tracee.to_its_end(thread)
        else:
            self._tracee.fail(thread, getattr(errno, what))

    def _ended(self, _thread: int) -> None:
        self._tracee.kill()

    def _file(self, call: Call) -> str | None:
        """The file below the directory; None if it is not there, or not to be looked at."""
        if call.name == "openat" and not call.arguments[2] & _CREATES:
            return None
        path = self._path(call)
        if not path.startswith(self._root) or path.endswith(DAEMON_LOG):
            return None
        file = path.removeprefix(self._root)
        for pattern, name in _VARIES:
            file = pattern.sub(name, file)
        return file

    def _path(self, call: Call) -> str:
        try:
            if (at := _PATHS.get(call.name)) is not None:
                path = self._joined(_AT_FDCWD, self._string(call.arguments[at]))
                if call.name == "unlink":
                    self._names.pop(os.stat(path).st_ino, None)
                return path
            if (at := _PATHS_AT.get(call.name)) is None:
                return self._open_file(_signed(call.arguments[_DESCRIPTORS[call.name]]))
            path = self._joined(_signed(call.arguments[at]), self._string(call.arguments[at + 1]))
            if call.name == "linkat":
                self._name(self._string(call.arguments[1]), path)
            return path
        except OSError:
            return ""  # of a descriptor that is not open, say: the call will fail

    def _open_file(self, descriptor: int) -> str:
        """/proc does not know the name that a nameless file was given later."""
        path = self._link(f"fd/{descriptor}")
        if path.endswith(" (deleted)"):
            inode = os.stat(f"/proc/{self._tracee.pid}/fd/{descriptor}").st_ino
            return self._names.get(inode, path)
        return path

    def _name(self, source: str, path: str) -> None:
        """A file is about to get this name."""
        here = source.replace("/proc/self/", f"/proc/{self._tracee.pid}/")
        self._names[os.stat(here).st_ino] = path

    def _joined(self, directory: int, name: str) -> str:
        above = name if name.startswith("/proc/self/") else ""
        if above:
            return self._link(name.removeprefix("/proc/self/"))
        if name.startswith("/"):
            return name
        return f"{self._link('cwd' if directory == _AT_FDCWD else f'fd/{directory}')}/{name}"

    def _link(self, name: str) -> str:
        return os.readlink(f"/proc/{self._tracee.pid}/{name}")

    def _string(self, address: int) -> str:
        with open(f"/proc/{self._tracee.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            page_rest = -address % 4096 or 4096
            data = memory.read(min(page_rest, _STRING_BYTES_MAX))
            if b"\0" not in data:
                data += memory.read(_STRING_BYTES_MAX)
        return os.fsdecode(data.split(b"\0", 1)[0])


def _signed(value: int) -> int:
    """A C int, as it lies in a register."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def begin(directory: Path, fault: Fault | None) -> None:
    """Have this process traced from here on."""
    trace_me(lambda pid: Tracer(pid, directory, fault).run(), CALLS)
