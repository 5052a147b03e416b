"""A restart in place of one daemon, from the request until its next program serves.

The daemon answers before it ends, so what comes of it is found out by asking again and again: the
next program names the restart that it began with. One that names none was started anew, by a
service manager as a rule, because the one before it had failed.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from duplexd.client.results import RestartedInPlace
from duplexd.errors import DuplexdError, TimedOutError, UnreachableError

if TYPE_CHECKING:
    from duplexd.client.http import Http

ASK_SECONDS = 0.02
SILENT_SECONDS_MAX = 20.0  # of a process that does not answer at all; a service manager needs a few
SECONDS_MAX = 600.0  # for a program that answers, and recovers


async def restart(link: Http, force: bool) -> RestartedInPlace:
    """Raises WrongStateError with nothing changed; DuplexdError if clients were disconnected, or
    if it is the same program that serves again;
    UnreachableError if no program answers any more, TimedOutError while one is not ready.
    """
    begun = await link.call_patiently("POST", "/v1/restart", {"force": force})
    heard = began = time.monotonic()
    while heard - began < SECONDS_MAX:
        await asyncio.sleep(ASK_SECONDS)
        try:
            answer = await link.call("GET", "/v1/restart")
        except UnreachableError:
            try:
                await link.call("GET", "/healthz")  # which a program that recovers answers
                heard = time.monotonic()
            except UnreachableError:
                if time.monotonic() - heard > SILENT_SECONDS_MAX:
                    raise
            continue
        last = answer["last"]
        if last is not None and last["id"] == begun["id"]:
            if why := last.get("failed"):
                raise DuplexdError(
                    f"{link.prefix}the next program could not be started, and the one before it,"
                    f" {begun['previous_version']}, serves again, for {last['clients_kept']} NBD"
                    f" connections: {why}"
                )
            how = {key: last[key] for key in ("pause_s", "clients_kept", "clients_lost")}
            return RestartedInPlace(begun["version"], begun["previous_version"], **how)
        if answer["program"] != begun["program"]:
            raise DuplexdError(
                f"{link.prefix}the next program failed, and the daemon was started anew:"
                " its clients were disconnected; see its log"
            )
    raise TimedOutError(
        f"{link.prefix}the next program does not serve after {SECONDS_MAX:g} s; see its log"
    )
