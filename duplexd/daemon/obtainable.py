"""Whether the addresses that only the daemon's own process listens on can be had.

A stand-in listens for NBD clients alone, so it would serve where the process, once it is the next
program, finds an address of the new configuration taken. By then there is no way back. The program
before has given these addresses up when a stand-in begins, so that it can bind each, and let it go.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from duplexd.net import listen
from duplexd.net.address import UnixAddress

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config
    from duplexd.daemon.succession import Estate
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
