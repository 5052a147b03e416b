"""The process becomes the next program, while a stand-in serves its clients.

The descriptor of the link to the stand-in is kept, and a variable names it, with the process that
it is for: so no child takes it for its own.

While the process loads the next program, nothing in it can feed the watchdog, and the manager does
not listen to the stand-in. So the watchdog is asked to wait longer until then.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, NamedTuple

import structlog

from duplexd.daemon.link import Link, go_on_waiting
from duplexd.daemon.successor import own_command
from duplexd.errors import DuplexdError
from duplexd.runtime.notify import let_watchdog_wait

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from duplexd.daemon.succession import Estate
    from duplexd.daemon.successor import Successor

# PID:DESCRIPTOR:PID OF THE STAND-IN:HOW MANY SOCKETS A SERVICE MANAGER PASSED
VARIABLE = "DUPLEXD_STAND_IN"

LOADED_SECONDS_MAX = 120.0  # to load the next program, on a machine that has no time for it

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")


def replaced(estate: Estate, successor: Successor) -> Estate:
    """Have the successor stand in, and become the next program: then it does not return. Returns
    the estate if that cannot be, and this program goes on; raises DuplexdError if it is lost.
    """
    if why := successor.take_over(estate):
        log.error("the next program cannot be started", reason=why)
        return estate._replace(failed=why)
    estate.disown()
    passed = len(estate.passed.nbd) + (estate.passed.control is not None)
    let_watchdog_wait(LOADED_SECONDS_MAX)
    try:
        become(own_command(), successor, passed)
    except OSError as error:
        why = error.strerror or str(error)
    let_watchdog_wait()
    log.error("the next program cannot be started", reason=why)
    successor.leave()
    _reap_later(successor.pid)
    back = successor.link.take(go_on_waiting)
    if back is None:
        raise DuplexdError("the program that served meanwhile has failed; start it again")
    return back._replace(failed=why)


def become(command: list[str], successor: Successor, passed: int) -> None:
    """Raises OSError if the program is not there, with nothing changed."""
    descriptor = successor.link.fileno()
    given = {**os.environ, VARIABLE: f"{os.getpid()}:{descriptor}:{successor.pid}:{passed}"}
    os.set_inheritable(descriptor, True)
    try:
        os.execve(command[0], command, given)  # noqa: S606  no shell is wanted
    finally:
        os.set_inheritable(descriptor, False)


def inherited(environment: MutableMapping[str, str] = os.environ) -> Inherited | None:
    """What stands in for this program, once; None if nothing does.

    The signals that were held are to be taken with `take_signals` once there are handlers.
    """
    pid, *numbers = environment.pop(VARIABLE, "").split(":")
    if pid != str(os.getpid()):
        return None
    let_watchdog_wait()
    descriptor, child, passed = map(int, numbers)
    _reap_later(child)
    return Inherited(Link.at(descriptor), passed)


class Inherited(NamedTuple):
    """The link to a stand-in, and how many sockets of a service manager it has."""

    link: Link
    passed: int

    def take(self) -> Estate | None:
        """What the stand-in leaves; None if it has failed, and this is a start like any other.

        Raises DuplexdError if its sockets went with it: nobody but the manager has them, and
        clients would wait there while this program serves elsewhere.
        """
        estate = self.link.take(go_on_waiting)
        if estate is None and self.passed:
            raise DuplexdError("the program that served meanwhile has failed; start it again")
        return estate


def _reap_later(child: int) -> None:
    threading.Thread(target=_reap, args=(child,), name="stand-in", daemon=True).start()


def _reap(child: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)
