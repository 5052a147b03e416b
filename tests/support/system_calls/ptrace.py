"""Stops a process at chosen system calls: a seccomp filter says which, and ptrace stops there.

strace can inject faults too, but counts calls for each thread, and kills only before a call. Here
a call is named by what it does to which file, whichever thread makes it, and may be followed to its
end. A filter costs nothing for the calls that are not chosen.

The process forks its tracer, which attaches to its own parent; so the process keeps its number, its
parent and its exit status. Sources: ptrace(2), seccomp(2), linux/audit.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Numbers of the calls that change a file or a directory, on x86_64
CALLS = {
    "write": 1, "pwrite64": 18, "writev": 20, "fsync": 74, "fdatasync": 75, "truncate": 76,
    "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84, "link": 86, "unlink": 87,
    "setxattr": 188, "fsetxattr": 190, "openat": 257, "mkdirat": 258, "unlinkat": 263,
    "renameat": 264, "linkat": 265, "sync_file_range": 277, "fallocate": 285, "pwritev": 296,
    "renameat2": 316, "copy_file_range": 326, "pwritev2": 328,
}  # fmt: skip
NAMES = {number: name for name, number in CALLS.items()}

_SEIZE, _CONT, _SYSCALL, _LISTEN, _GETREGS, _SETREGS = 0x4206, 7, 24, 0x4208, 12, 13
_O_SYSGOOD, _O_FORK, _O_VFORK, _O_CLONE, _O_SECCOMP, _O_EXITKILL = 1, 2, 4, 8, 0x80, 0x100000
_EVENT_SECCOMP, _EVENT_STOP = 7, 128
_WALL = 0x40000000
_PR_SET_NO_NEW_PRIVS, _PR_SET_PTRACER, _PR_SET_SECCOMP = 38, 0x59616D61, 22
_FILTER_ALLOW, _FILTER_TRACE = 0x7FFF0000, 0x7FF00000
_REGISTERS = struct.Struct("27Q")  # user_regs_struct
_RAX, _RDX, _RSI, _RDI, _ORIG_RAX, _R10 = 10, 12, 13, 14, 15, 7
_AUTHOR = "it needs x86_64, CAP_SYS_PTRACE or no seccomp filter that forbids ptrace around it"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


class NotPermittedError(RuntimeError):
    """This machine does not let a process be traced."""


class Call(NamedTuple):
    """A call that a thread is about to make."""

    thread: int
    name: str
    arguments: tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _ptrace(request: int, thread: int, data: int = 0) -> None:
    if _libc.ptrace(request, thread, None, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _control(option: int, *values: object) -> None:
    if _libc.prctl(option, *values) == -1:
        number = ctypes.get_errno()
        raise NotPermittedError(f"prctl {option}: {os.strerror(number)}; {_AUTHOR}")


def trace_me(tracer: Callable[[int], None], calls: Iterable[str]) -> None:
    """Fork a tracer that is attached to this process when this returns, and runs `tracer(pid)`."""
    if platform.machine() != "x86_64":
        raise NotPermittedError(f"no numbers of system calls of {platform.machine()}; {_AUTHOR}")
    readable, writable = os.pipe()
    me = os.getpid()
    waiting, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(waiting, 1)  # allowed now, where Yama restricts who may trace
        _in_child(me, writable, tracer)
    os.close(writable)
    if _libc.prctl(_PR_SET_PTRACER, child, 0, 0, 0) == -1 and ctypes.get_errno() != errno.EINVAL:
        raise NotPermittedError(_AUTHOR)
    os.write(go, b"x")
    for end in (waiting, go):
        os.close(end)
    answer = os.read(readable, 200).decode()
    os.close(readable)
    if answer != "ok":
        raise NotPermittedError(f"ptrace: {answer}; {_AUTHOR}")
    _control(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    code = _filter([CALLS[name] for name in calls])
    program = _Program(len(code) // 8, code)
    _control(_PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0)


def _in_child(me: int, writable: int, tracer: Callable[[int], None]) -> None:
    options = _O_SYSGOOD | _O_FORK | _O_VFORK | _O_CLONE | _O_SECCOMP | _O_EXITKILL
    try:
        _ptrace(_SEIZE, me, options)
    except OSError as error:
        os.write(writable, str(error).encode())
        os._exit(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.write(writable, b"ok")
    os.close(writable)
    try:
        tracer(me)
    finally:
        os._exit(0)


def _filter(numbers: list[int]) -> bytes:
    """BPF: load the number; for each chosen one jump to TRACE; ALLOW; TRACE."""
    code = [(0x20, 0, 0, 0)]
    for at, number in enumerate(numbers):
        code.append((0x15, len(numbers) - at, 0, number))
    code += [(0x06, 0, 0, _FILTER_ALLOW), (0x06, 0, 0, _FILTER_TRACE)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


class Tracee:
    """The traced process, in the process that traces it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def run(self, stopped: Callable[[Call], None], ended: Callable[[int], None]) -> None:
        """Until no thread is left: `stopped` before each chosen call, and it has to resume the
        thread; `ended` when a call that `to_its_end` resumed is over.
        """
        while True:
            try:
                thread, status = os.waitpid(-1, _WALL)
            except ChildProcessError:
                return
            if os.WIFSTOPPED(status):
                try:
                    self._stop(thread, status, stopped, ended)
                except ProcessLookupError:  # killed meanwhile
                    continue

    def _stop(
        self,
        thread: int,
        status: int,
        stopped: Callable[[Call], None],
        ended: Callable[[int], None],
    ) -> None:
        event, number = status >> 16, os.WSTOPSIG(status)
        if event == _EVENT_SECCOMP:
            registers = self._registers(thread)
            arguments = (registers[_RDI], registers[_RSI], registers[_RDX], registers[_R10])
            stopped(Call(thread, NAMES[registers[_ORIG_RAX]], arguments))
        elif number == signal.SIGTRAP | 0x80:
            ended(thread)
        elif event == _EVENT_STOP and number in {
            signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
        }:  # fmt: skip
            _ptrace(_LISTEN, thread)
        elif event:
            _ptrace(_CONT, thread)
        else:
            _ptrace(_CONT, thread, number)

    def resume(self, thread: int) -> None:
        """Go on."""
        _ptrace(_CONT, thread)

    def to_its_end(self, thread: int) -> None:
        """Go on until the call is over: then `ended` is called."""
        _ptrace(_SYSCALL, thread)

    def fail(self, thread: int, number: int) -> None:
        """The call is not made, and returns this error."""
        registers = list(self._registers(thread))
        registers[_ORIG_RAX] = (1 << 64) - 1
        registers[_RAX] = (1 << 64) - number
        buffer = ctypes.create_string_buffer(_REGISTERS.pack(*registers), _REGISTERS.size)
        _ptrace(_SETREGS, thread, ctypes.addressof(buffer))
        _ptrace(_CONT, thread)

    def kill(self) -> None:
        """At once. A call that has not begun is not made."""
        os.kill(self.pid, signal.SIGKILL)

    def _registers(self, thread: int) -> tuple[int, ...]:
        buffer = ctypes.create_string_buffer(_REGISTERS.size)
        _ptrace(_GETREGS, thread, ctypes.addressof(buffer))
        return _REGISTERS.unpack(buffer.raw)
