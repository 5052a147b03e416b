"""A new configuration while volumes are served: all of it, or nothing with the reasons.

New addresses are bound first, because that can fail and be undone; removed ones are closed last.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from duplexd.api.server import Admission
from duplexd.config.exposure import describe_exposure
from duplexd.daemon import preflight
from duplexd.daemon.checking import load_in_time
from duplexd.daemon.nbd_rules import Rules
from duplexd.daemon.startup import in_file, refuse_fixed, refuse_problems
from duplexd.errors import DuplexdError
from duplexd.nbd_server.reach import NOBODY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.api.server import ControlServer
    from duplexd.config.daemon_file import Config
    from duplexd.engine.controller import Controller
    from duplexd.nbd_server.listeners import Listeners
    from duplexd.net.address import Address
    from duplexd.runtime.threads import Workers

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")


class Reloads:
    """Reads the file of `config` again; `config` is always what is in force."""

    def __init__(
        self,
        config: Config,
        controller: Controller,
        listeners: Listeners,
        control: ControlServer,
        workers: Workers,
        rules: Rules,
        passed: Sequence[Address],
    ) -> None:
        self.config = config
        self._rules = rules
        self._passed = passed
        self._controller = controller
        self._listeners = listeners
        self._control = control
        self._workers = workers

    async def once(self) -> list[str]:
        """What changed. Raises DuplexdError, OSError with nothing changed."""
        old = self.config
        new, admission, rules = await self._workers.run(lambda: _read(old, self._passed))
        added = [each for each in new.nbd.addresses if each not in old.nbd.addresses]
        removed = [each for each in old.nbd.addresses if each not in new.nbd.addresses]
        changes = await self._switch(new, rules)
        self._control.admit(admission)
        if new.control.tls is not None:
            changes = [*changes, "certificates of control.tls read again"]
        if new.nbd.tls is not None:
            changes = [*changes, "certificates of nbd.tls read again"]
        for line in describe_exposure(new):
            log.warning("NBD listener without protection", problem=line)
        self.config = new
        return [
            *changes,
            *(f"listening on {listen}" for listen in added),
            *(f"no longer listening on {listen}" for listen in removed),
        ]

    async def _switch(self, new: Config, rules: Rules) -> list[str]:
        """New volumes are hidden until all of the new rules hold: by the old ones everybody might
        reach them. They stay so after an error, because some may be in force by then.
        """
        listeners, before = self._listeners, self._rules
        hidden = {name: NOBODY for name in new.volumes if name not in self.config.volumes}
        policy = replace(before.policy, volumes={**before.policy.volumes, **hidden})
        known = {each.address for each in before.listeners}
        added = [each for each in rules.listeners if each.address not in known]
        with in_file(new, "nbd.listen"):
            await listeners.update([*before.listeners, *added], policy)
        with in_file(new):
            try:
                changes = await self._controller.reload(new)
            except DuplexdError:
                await listeners.update(before.listeners)
                raise
            await listeners.update(rules.listeners, rules.policy)
        self._rules = rules
        return changes


def _read(old: Config, passed: Sequence[Address]) -> tuple[Config, Admission, Rules]:
    """The new configuration, if it can be served. Blocking: it looks at files and images."""
    new = load_in_time(old.source)
    refuse_fixed(old, new)
    refuse_problems(new, preflight.look(new) + preflight.look_at_images(new, old))
    with in_file(new):
        return new, Admission.of(new.control), Rules.of(new, passed)
