"""`duplexd`, whose next program fails as a file says.

    next_program.py PLAN run --config FILE

PLAN has one word, or none. What the program does that is asked whether it can take over:

    gone, older, silent     it does not start; reads no such journal; ends without an answer

`lock`, `recovery`, `listen` and `adopt` fail in the program that stands in for the process, and it
is `killed` as soon as it serves. The same and `inherit` and `control` after a `process-` fail in
the process, when it has become the next program. `exec`: it cannot become one. `slow`: the program
that is to be replaced takes long to hand over its clients.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from duplexd.api.server import ControlServer
from duplexd.daemon import process, program, replacing, service, successor
from duplexd.daemon.recovery import Recovery
from duplexd.nbd_server import handing_over, listeners
from duplexd.nbd_server.listeners import Listeners

if TYPE_CHECKING:
    from duplexd.nbd_server.handed import Handed
    from duplexd.nbd_server.shared import Server

PLAN = Path(sys.argv.pop(1))
FAULT = PLAN.read_text()


def fail(*_arguments: Any, **_named: Any) -> NoReturn:
    """What is put in place of a function."""
    print(f"stand-in: {FAULT}", file=sys.stderr, flush=True)
    raise OSError(errno.EIO, f"stand-in: {FAULT}")


def die() -> NoReturn:
    """As by `kill -9`."""
    print(f"stand-in: {FAULT}", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


async def linger(server: Server, seconds: float) -> list[Handed]:
    """Hand over the clients, after a while."""
    print(f"stand-in: {FAULT}", file=sys.stderr, flush=True)
    await asyncio.sleep(2.0)
    return await handing_over.leaving(server, seconds)


def tell_deadlines() -> None:
    """How many stops there are that would end the process in a while."""
    count = sum(thread.name == "deadline" for thread in threading.enumerate())
    print(f"stand-in: deadlines {count}", file=sys.stderr, flush=True)


def main() -> None:
    """Spoil what is to fail, and be the program."""
    if sys.argv[1] == "successor" and FAULT == "gone":
        sys.exit("stand-in: gone")
    if sys.argv[1] == "successor" and FAULT == "silent":
        sys.exit(0)

    if sys.argv[1] == "successor" and FAULT == "older":
        successor._READS["journal"] = (1,)
    places: dict[str, tuple[Any, str]] = {
        "inherit": (process, "inherited"),
        "lock": (service, "StateLock"),
        "control": (ControlServer, "start"),
        "recovery": (Recovery, "run"),
        "listen": (Listeners, "start"),
        "adopt": (Listeners, "adopt"),
    }
    if sys.argv[1] == "successor" and FAULT in places:
        setattr(*places[FAULT], fail)
    if sys.argv[1] == "successor" and FAULT == "killed":
        setattr(service, "calm_collector", die)  # noqa: B010
    if FAULT == "slow":
        setattr(listeners, "leaving", linger)  # noqa: B010
    late = FAULT.removeprefix("process-")
    if replacing.VARIABLE in os.environ and FAULT.startswith("process-"):
        setattr(*places[late], fail)
    become = os.execve

    def execve(*command: Any) -> None:
        if PLAN.read_text() == "exec":
            threading.Timer(1.0, tell_deadlines).start()
            raise FileNotFoundError(errno.ENOENT, "stand-in: exec")
        become(*command)

    setattr(os, "execve", execve)  # noqa: B010  mypy: a module of the library
    program.main()


if __name__ == "__main__":
    main()
