"""A controller on real files and the NBD server in front of it, in this process, with one client.

The figures of a path say something only if the path is the one that a user's request takes. So the
parts are the daemon's own, assembled as the daemon does it, without its configuration file, its
HTTP server and its log.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from duplexd.config.load import parse
from duplexd.engine.controller import Controller, Machine, start
from duplexd.engine.events import Events
from duplexd.limits import NbdLimits
from duplexd.nbd.client import NbdClient
from duplexd.nbd_server.listeners import Listeners
from duplexd.runtime.clock import RealClock
from duplexd.runtime.disk import RealDisk
from duplexd.runtime.threads import ThreadWorkers
from tests.support.prompt_workers import PromptWorkers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

VOLUMES = ["data", "wal"]

_CONTROLLER = """
[controller]
name = "alpha"
state_dir = "{directory}/state"
journal_size = "64MiB"
[nbd]
listen = ["unix:{directory}/nbd.sock"]
"""
_VOLUME = """
[volumes.{name}]
size = "4MiB"
primary = "{directory}/{name}.primary"
secondary = "{directory}/{name}.secondary"
"""


class Client:
    """An NBD client of the volume `data`, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._nbd = NbdClient(VOLUMES[0])

    async def connect(self) -> None:
        """The handshake."""
        while not self._nbd.ready:
            self._nbd.receive(await self._reader.read(1 << 16))
            self._writer.write(self._nbd.data_to_send())

    async def write(self, offset: int, data: bytes) -> None:
        """One WRITE, until its reply is here."""
        self._nbd.write(offset, data)
        self._writer.write(self._nbd.data_to_send())
        while not (replies := self._nbd.receive(await self._reader.read(1 << 16))):
            pass
        assert [reply.error for reply in replies] == [0]

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        await self._writer.wait_closed()


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[tuple[Controller, Client]]:
    """A controller with two DUPLEX pairs, and a client in the transmission phase."""
    text = _CONTROLLER.format(directory=directory)
    text += "".join(_VOLUME.format(directory=directory, name=name) for name in VOLUMES)
    config = parse(text, str(directory / "duplexd.toml"))
    workers = ThreadWorkers(asyncio.get_running_loop(), "worker", 1)
    machine = Machine(RealDisk(), RealClock(), workers, workers, PromptWorkers())
    controller = await start(config, machine, Events(machine.clock))
    listeners = Listeners(controller, config.nbd.listen, NbdLimits())
    await listeners.start()
    client = Client(*await asyncio.open_unix_connection(str(directory / "nbd.sock")))
    await client.connect()
    try:
        yield controller, client
    finally:
        await client.close()
        await listeners.stop()
        await controller.stop()
        workers.close()
