"""A new configuration while volumes are served: all of it, or nothing with the reasons.

New addresses are bound first, because that can fail and be undone; removed ones are closed last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.api.server import Admission
from duplexd.config import load as configuration
from duplexd.daemon.startup import in_file, refuse_fixed, refuse_problems
from duplexd.errors import DuplexdError

if TYPE_CHECKING:
    from duplexd.api.server import ControlServer
    from duplexd.config.daemon_file import Config
    from duplexd.engine.controller import Controller
    from duplexd.nbd_server.listeners import Listeners


class Reloads:
    """Reads the file of `config` again; `config` is always what is in force."""

    def __init__(
        self, config: Config, controller: Controller, listeners: Listeners, control: ControlServer
    ) -> None:
        self.config = config
        self._controller = controller
        self._listeners = listeners
        self._control = control

    async def once(self) -> list[str]:
        """What changed. Raises DuplexdError, OSError with nothing changed."""
        old, new = self.config, configuration.load(self.config.source)
        refuse_fixed(old, new)
        refuse_problems(new, old)
        with in_file(new):
            admission = Admission.of(new.control)
        added = [listen for listen in new.nbd.listen if listen not in old.nbd.listen]
        removed = [listen for listen in old.nbd.listen if listen not in new.nbd.listen]
        changes = await self._switch(old, new)
        self._control.admit(admission)
        if new.control.tls is not None:
            changes = [*changes, "certificates of control.tls read again"]
        self.config = new
        return [
            *changes,
            *(f"listening on {listen}" for listen in added),
            *(f"no longer listening on {listen}" for listen in removed),
        ]

    async def _switch(self, old: Config, new: Config) -> list[str]:
        listeners = self._listeners
        added = [listen for listen in new.nbd.listen if listen not in old.nbd.listen]
        with in_file(new, "nbd.listen"):
            await listeners.update([*old.nbd.listen, *added])
        with in_file(new):
            try:
                changes = await self._controller.reload(new)
            except DuplexdError:
                await listeners.update(list(old.nbd.listen))
                raise
            await listeners.update(list(new.nbd.listen))
        return changes
