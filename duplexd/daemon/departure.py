"""What a service leaves to the program that goes on, once a restart is asked for: the sockets,
and the clients whose requests are answered. Here the pause begins.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from duplexd import __version__
from duplexd.daemon.succession import Estate
from duplexd.errors import DuplexdError
from duplexd.net.activation import Passed

if TYPE_CHECKING:
    from duplexd.daemon.assembly import Running

RESTART_SECONDS_MAX = 3.0  # for requests in flight; a client that takes longer is disconnected
SECURED_SECONDS_MAX = 3.0  # the same of those with TLS; the others do not wait for them


async def leave(running: Running, before: Estate, number: str, stands_in: bool) -> Estate:
    """Holds end first, then no request is taken any more. What can be synced before that is.

    `before`: what this program was left itself. `number`: the id of the restart. A stand-in passes
    on what it has not used, and what it knows of the first half.
    """
    if stands_in:
        passed_control, control = before.passed.control, before.control
    else:
        bound = running.control.hand_over()
        passed_control, control = (None, bound) if bound.ours else (bound, None)
        await running.control.stop()
    listeners = running.listeners
    secured = await listeners.end_secured(SECURED_SECONDS_MAX)
    with contextlib.suppress(OSError, DuplexdError):  # the stop says so
        await running.controller.checkpointer.checkpoint()
    began_ns = time.monotonic_ns()
    listening, clients, cut_off = await listeners.hand_over(RESTART_SECONDS_MAX)
    last = running.restarts.last if stands_in else None
    return Estate(
        [(address, bound) for address, bound in listening if bound.ours],
        Passed([bound for _address, bound in listening if not bound.ours], passed_control),
        control,
        clients,
        began_ns,
        secured + cut_off + (last["clients_lost"] if last else 0),
        before.version if stands_in else __version__,
        number,
        int(last["pause_s"] * 1e9) if last else 0,
    )
