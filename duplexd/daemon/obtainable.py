"""Whether the addresses of a new configuration can be had, before anything is done by it.

A stand-in listens for NBD clients alone, so it would serve where the process, once it is the next
program, finds another address taken. By then there is no way back. Its own addresses come after the
recovery, which adds volumes and takes settings as configured; the program before goes on by its own
configuration if the stand-in fails. So all are looked at here, while nothing has changed. The
program before has given those of the process up when a stand-in begins, so that it can bind each,
and let it go.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.daemon import nbd_rules
from duplexd.net import listen
from duplexd.net.address import UnixAddress

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config
    from duplexd.daemon.succession import Estate
    from duplexd.nbd_server.reach import Listener
    from duplexd.net.listen import BoundSocket


async def obtainable(config: Config, estate: Estate) -> None:
    """Raises ConfigurationError; WrongStateError for an address that cannot be had at present."""
    for bound in await asyncio.to_thread(_bind, config, estate):
        bound.close()


def _bind(config: Config, estate: Estate) -> list[BoundSocket]:
    found: list[BoundSocket] = []
    tls, metrics = config.control.tls, config.metrics.listen
    control = UnixAddress(str(config.control.socket))
    try:
        for listener in _new(config, estate):
            found += listen.bind(
                listener.address, "nbd.listen", listener.group, True, listener.mode
            )
        if tls is not None:
            found += listen.bind_all(tls.listen, "control.tls.listen")
        if metrics is not None:
            found += listen.bind(metrics, "metrics.listen")
        left = estate.passed.control or estate.control
        if left is None or (left.ours and (left.address != control or left.is_lost)):
            found += listen.bind(control, "control.socket", make_parents=True)
    except BaseException:
        for each in found:
            each.close()
        raise
    return found


def _new(config: Config, estate: Estate) -> list[Listener]:
    """For NBD clients: those that are not listened on already."""
    lost = {address for address, bound in estate.listening if bound.is_lost}
    known = {address for address, _bound in estate.listening} - lost
    known.update(each.address for each in estate.passed.nbd)
    return [each for each in nbd_rules.listeners_of(config) if each.address not in known]
