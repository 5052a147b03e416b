"""`duplexd`, whose next program fails as a file says.

    next_program.py PLAN run --config FILE

PLAN has one word, or none. What the question to the successor does with it:

    gone, older, silent     it does not start; reads no such journal; ends without an answer

What the program does that takes over: `inherit`, `lock`, `control`, `recovery`, `listen` and
`adopt` fail there. `exec`: the program that is to be replaced cannot become another one.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from duplexd.api.server import ControlServer
from duplexd.daemon import process, program, service, succession, successor
from duplexd.daemon.recovery import Recovery
from duplexd.nbd_server.listeners import Listeners

PLAN = Path(sys.argv.pop(1))
FAULT = PLAN.read_text()


def fail(*_arguments: Any, **_named: Any) -> NoReturn:
    """What is put in place of a function."""
    print(f"stand-in: {FAULT}", file=sys.stderr, flush=True)
    raise OSError(errno.EIO, f"stand-in: {FAULT}")


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
    if succession.VARIABLE in os.environ and FAULT in places:
        setattr(*places[FAULT], fail)
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
