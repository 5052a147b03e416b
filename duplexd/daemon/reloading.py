"""A new configuration while volumes are served: all of it, or nothing with the reasons.

New addresses are bound first, because that can fail and be undone; removed ones are closed last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.api.server import Admission
from duplexd.daemon import preflight
from duplexd.daemon.checking import load_in_time
from duplexd.daemon.startup import in_file, refuse_fixed, refuse_problems
from duplexd.errors import DuplexdError

if TYPE_CHECKING:
    from duplexd.api.server import ControlServer
    from duplexd.config.daemon_file import Config
    from duplexd.engine.controller import Controller
    from duplexd.nbd_server.listeners import Listeners
    from duplexd.runtime.threads import Workers


class Reloads:
    """Reads the file of `config` again; `config` is always what is in force."""

    def __init__(
        self,
        config: Config,
        controller: Controller,
        listeners: Listeners,
        control: ControlServer,
        workers: Workers,
    ) -> None:
        self.config = config
        self._controller = controller
        self._listeners = listeners
        self._control = control
        self._workers = workers

    async def once(self) -> list[str]:
        """What changed. Raises DuplexdError, OSError with nothing changed."""
        old = self.config
        new, admission = await self._workers.run(lambda: _read(old))
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


def _read(old: Config) -> tuple[Config, Admission]:
    """The new configuration, if it can be served. Blocking: it looks at files and images."""
    new = load_in_time(old.source)
    refuse_fixed(old, new)
    refuse_problems(new, preflight.look(new) + preflight.look_at_images(new, old))
    with in_file(new):
        return new, Admission.of(new.control)
