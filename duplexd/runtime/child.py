"""A program that is run beside an event loop: bounded in time, in output, and in what it leaves.

A thread of its own starts it and watches it. The loop's own way to start a process would wait in
the loop until the program was read from its disk, and a frozen or hung file system is just what
these programs deal with. A shared pool of threads would let a few slow programs hold up what else
runs there.

The program gets its own session, so that ctrl-C at a terminal does not reach it and so that all it
started can be ended with it: SIGKILL to the process group at the time-out and at a stop. What it
leaves running after it has ended by itself is not touched: a dead man's switch is such a process.
Nor is it waited for, although it may have the output open.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import threading
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from duplexd.runtime.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

OK, FAILED, TIMED_OUT, STOPPED = "ok", "failed", "timed-out", "stopped"
_READ_BYTES = 64 * 1024
_KILLED_SECONDS = 2.0  # for a killed process to be gone: one that waits for a disk is not
# What a service manager says to its own process: a child must not answer for it
_OF_THE_SERVICE = ("NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_", "MAINPID")


class Ended(NamedTuple):
    """How a program ended. `exit_code`: None if it was never started, negative for a signal."""

    status: str
    exit_code: int | None
    seconds: float
    output: str
    why: str


class Stop:
    """Ends programs early, from any thread; one that is run afterwards is ended at once."""

    def __init__(self) -> None:
        self._readable, self._writable = os.pipe()
        self.asked = False

    def ask(self) -> None:
        if not self.asked:
            self.asked = True
            os.write(self._writable, b"s")

    def fileno(self) -> int:
        """Readable once it was asked for."""
        return self._readable

    def close(self) -> None:
        """When no program runs any more."""
        self.asked = True
        os.close(self._readable)
        os.close(self._writable)


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """That of this process, without what a service manager says to it, and with `own`. A variable
    cannot hold NUL.
    """
    kept = {name: text for name, text in os.environ.items() if not name.startswith(_OF_THE_SERVICE)}
    return kept | {name: text.replace("\0", "\ufffd") for name, text in own.items()}


async def run(
    command: Sequence[str], own: Mapping[str, str], seconds_max: float, output_max: int, stop: Stop
) -> Ended:
    """Run `command`, an absolute path with its arguments, without a shell.

    Its stdin is empty, stdout and stderr are one; of it the last `output_max` bytes are kept. A
    cancelled call stops it, and returns when it has ended. One whose disk does not answer in time
    is never started.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Ended] = loop.create_future()

    def deliver(ended: Ended) -> None:
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(done.set_result, ended)

    watched = _Watched(command, environment(own), seconds_max, output_max, stop, deliver)
    try:
        threading.Thread(target=watched.run, name="hook", daemon=True).start()
    except RuntimeError as error:
        return Ended(FAILED, None, 0.0, "", f"{command[0]} cannot be run: {error}")
    ended = asyncio.ensure_future(_in_time(watched, done, seconds_max))
    try:
        return await asyncio.shield(ended)
    except asyncio.CancelledError:
        stop.ask()
        if watched.give_up():
            ended.cancel()
        else:
            await to_its_end(ended)
        raise


async def _in_time(watched: _Watched, done: asyncio.Future[Ended], seconds_max: float) -> Ended:
    """Once it is started it has an end; but the file that it is in may be on a disk that hangs."""
    await asyncio.wait((done,), timeout=seconds_max)
    if not done.done() and watched.give_up():
        why = f"it was not started: its disk did not answer within {seconds_max:g} s (hook_timeout)"
        return Ended(TIMED_OUT, None, seconds_max, "", why)
    return await done


async def in_thread(call: Callable[[], list[str]], seconds_max: float) -> list[str]:
    """The result of a look at files, which may hang. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[list[str]] = loop.create_future()

    def deliver(found: list[str]) -> None:
        if not done.done():
            done.set_result(found)

    def work() -> None:
        found = call()
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(deliver, found)

    threading.Thread(target=work, name="hook", daemon=True).start()
    async with asyncio.timeout(seconds_max):
        return await done


class _Watched:
    """One program, in its thread."""

    def __init__(
        self,
        command: Sequence[str],
        variables: dict[str, str],
        seconds_max: float,
        output_max: int,
        stop: Stop,
        deliver: Callable[[Ended], None],
    ) -> None:
        self._command = list(command)
        self._variables = variables
        self._seconds_max = seconds_max
        self._output_max = output_max
        self._stop = stop
        self._deliver = deliver
        self._output = bytearray()
        self._began = monotonic()
        self._decided = threading.Lock()  # taken once: by the side that starts it, or gives it up

    def give_up(self) -> bool:
        """Never start it; False if it is too late for that. From any thread."""
        return self._decided.acquire(blocking=False)

    def run(self) -> None:
        try:
            self._read_program()
            if not self._decided.acquire(blocking=False):
                return
            process = self._start()
        except (OSError, ValueError) as error:
            why = (isinstance(error, OSError) and error.strerror) or str(error)
            self._end(FAILED, None, f"{self._command[0]} cannot be run: {why}")
            return
        with process:  # which waits for one that could not be killed, when that has been said
            try:
                self._watch(process)
            except OSError as error:  # no descriptor was left
                _kill(process)
                self._end(FAILED, None, f"it cannot be watched: {error.strerror}; it was killed")

    def _read_program(self) -> None:
        # From its disk, here, where only this thread waits: while the new process does it, no other
        # thread of this one gets on.
        with suppress(PermissionError), open(self._command[0], "rb") as file:
            file.read(1)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=self._variables,
            start_new_session=True,
        )

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            raise RuntimeError("the program was started with a pipe, and has none")
        pipe = process.stdout.fileno()
        os.set_blocking(pipe, False)
        handle = os.pidfd_open(process.pid)
        try:
            status = self._until_over(handle, pipe)
            if status != OK:
                _kill(process)
                _ready({handle}, _KILLED_SECONDS)
            self._read(pipe)
        finally:
            os.close(handle)
        self._say(process, status)

    def _until_over(self, handle: int, pipe: int) -> str:
        """OK once it has ended by itself; else why it has to be ended."""
        readable = {handle, pipe, self._stop.fileno()}
        while True:
            left_s = self._began + self._seconds_max - monotonic()
            ready = _ready(readable, max(0.0, left_s))
            if handle in ready:
                return OK
            if self._stop.fileno() in ready:
                return STOPPED
            if left_s <= 0:
                return TIMED_OUT
            if pipe in ready and not self._read(pipe):
                readable.discard(pipe)

    def _read(self, pipe: int) -> bool:
        """Take what is there, no more than a pipe holds; False at its end."""
        try:
            data = os.read(pipe, _READ_BYTES)
        except BlockingIOError:
            return True
        self._output += data
        del self._output[: -self._output_max]
        return bool(data)

    def _say(self, process: subprocess.Popen[bytes], status: str) -> None:
        code = process.poll()
        if status == OK and code:
            status = FAILED
        if status == TIMED_OUT:
            why = f"it was killed after {self._seconds_max:g} s (hook_timeout)"
        elif status == STOPPED:
            why = "it was killed because the suspend was given up"
        elif status == FAILED and code is not None:
            why = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
        else:
            why = ""
        self._end(status, code, why)

    def _end(self, status: str, code: int | None, why: str) -> None:
        seconds = monotonic() - self._began
        output = self._output.decode(errors="replace")
        self._deliver(Ended(status, code, seconds, output, why))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """It, and all that it started in its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _ready(readable: set[int], seconds: float) -> set[int]:
    """Those that can be read within so long. By poll: a daemon has more descriptors than select
    knows.
    """
    poll = select.poll()
    for each in readable:
        poll.register(each, select.POLLIN)
    return {each for each, _ in poll.poll(seconds * 1000)}
