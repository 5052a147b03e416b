"""A new configuration while volumes are served: all of it, or nothing with the reasons.

New addresses are bound first, because that can fail and be undone; removed ones are closed last.

It is asked for by SIGHUP and by `duplexctl reload`, one at a time. What a signal asks for nobody
waits for, so a refusal is in the log, in an event and in the line of the service manager until a
reload succeeds; the command has it in its exit code, too. `check` is what `duplexd check` asks: it
raises what `reload` would, and changes nothing.
"""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import structlog

from duplexd.api.server import Admission
from duplexd.config.differences import differences
from duplexd.config.exposure import describe_exposure
from duplexd.daemon import preflight
from duplexd.daemon.loading import load_in_time, parse_in_time
from duplexd.daemon.nbd_rules import Rules
from duplexd.daemon.startup import in_file, refuse_fixed, refuse_problems
from duplexd.errors import DuplexdError, WrongStateError
from duplexd.nbd_server.reach import NOBODY
from duplexd.net.address import TcpAddress
from duplexd.runtime.notify import notify
from duplexd.runtime.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from duplexd.api.server import ControlServer
    from duplexd.config.daemon_file import Config
    from duplexd.daemon.announce import Announcements
    from duplexd.engine.controller import Controller
    from duplexd.nbd_server.listeners import Listeners
    from duplexd.net.address import Address
    from duplexd.runtime.hooks import GroupHooks, HookRun
    from duplexd.runtime.threads import Workers

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")


class _Read(NamedTuple):
    """A configuration that can be served, as far as that can be seen from outside of the engine."""

    config: Config
    admission: Admission
    rules: Rules


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
        announcements: Announcements,
    ) -> None:
        self.config = config
        self._ruled = config  # what the rules of the listeners are of
        self._rules = rules
        self._passed = passed
        self._controller = controller
        self._listeners = listeners
        self._control = control
        self._workers = workers
        self._announcements = announcements
        self._one = asyncio.Lock()
        self._restarts = False  # another program is about to go on, by what it has read

    async def on_signals(self, asked: asyncio.Event) -> None:
        """Reload whenever it is asked for."""
        while True:
            await asked.wait()
            asked.clear()
            try:
                await self.reload()
            except (DuplexdError, OSError):
                continue  # it is in the log

    async def reload(self) -> list[str]:
        """What changed. Raises DuplexdError, OSError: nothing changed, unless the text says so."""
        return await to_its_end(self._alone())

    async def check(self, text: str | None = None, path: str | None = None) -> list[str]:
        """What a reload of the file would change, or of this text, which lies at `path`. Raises
        what the reload would raise.
        """
        old = self.config

        def read() -> _Read:
            given = None if text is None else parse_in_time(text, path or old.source)
            return _read(old, self._passed, given)

        async with self._one:
            self._refuse_beside_restart()
            new = (await self._workers.run(read)).config
            await self._workers.run(lambda: _refuse_taken(old, new))
            with in_file(new):
                await self._controller.check_reload(new)
        return differences(old, new)

    @asynccontextmanager
    async def kept_out(self) -> AsyncGenerator[None]:
        """No reload goes on, and later ones are refused, unless this is left by an error."""
        async with self._one:
            self._restarts = True
        try:
            yield
        except BaseException:
            self._restarts = False
            raise

    def hooks(self, group: str) -> GroupHooks | None:
        """What is run around suspends of a group, by the configuration in force."""
        found = self.config.groups.get(group)
        return found.hooks(group) if found else None

    def hook_ended(self, run: HookRun) -> None:
        """Emit `hook-ended`, which the log has, too."""
        self._controller.events.emit("hook-ended", **run.json())

    async def _alone(self) -> list[str]:
        async with self._one:
            now_us = time.monotonic_ns() // 1000
            status = "reading the configuration again"
            notify(f"RELOADING=1\nMONOTONIC_USEC={now_us}\nSTATUS={status}")
            refused: list[str] = []
            try:
                self._refuse_beside_restart()
                changes = await self._once()
            except (DuplexdError, OSError) as error:
                refused = str(error).splitlines()
                self._report(refused)
                raise
            finally:
                self._announcements.reload_refused = refused
                notify(f"READY=1\nSTATUS={self._announcements.line()}")
            log.info("reloaded", changes=changes)
            return changes

    def _refuse_beside_restart(self) -> None:
        if self._restarts:
            raise WrongStateError("a restart is under way; reload after it")

    def _report(self, problems: list[str]) -> None:
        if self.config is self._ruled:
            log.error("reload refused, nothing changed", problems=problems)
        else:
            log.error("reloaded, but it may not be durable: reload again", problems=problems)
        self._controller.events.emit("reload-refused", problems=problems)

    async def _once(self) -> list[str]:
        old = self.config
        new, admission, rules = await self._workers.run(lambda: _read(old, self._passed, None))
        with in_file(new):
            made_again = await self._control.listen_again()
        changes = await self._switch(new, rules)
        if made_again:
            changes.append(f"listening on {made_again} again: its file was gone")
        self._control.admit(admission)
        changes += _rest_of(differences(old, new))
        if new.control.tls is not None:
            changes.append("certificates of control.tls read again")
        if new.nbd.tls is not None:
            changes.append("certificates of nbd.tls read again")
        for line in describe_exposure(new):
            log.warning("NBD listener without protection", problem=line)
        self.config = self._ruled = new
        return [
            *changes,
            *(f"listening on {listen}" for listen in _added(old, new)),
            *(f"no longer listening on {listen}" for listen in _added(new, old)),
        ]

    async def _switch(self, new: Config, rules: Rules) -> list[str]:
        """New volumes are hidden until all of the new rules hold: by the old ones everybody might
        reach them. They stay so after an error, because some may be in force by then.
        """
        listeners, before = self._listeners, self._rules
        hidden = {name: NOBODY for name in new.volumes if name not in self._ruled.volumes}
        policy = replace(before.policy, volumes={**before.policy.volumes, **hidden})
        known = {each.address for each in before.listeners}
        added = [each for each in rules.listeners if each.address not in known]
        with in_file(new, "nbd.listen"):
            again = await listeners.update([*before.listeners, *added], policy)
        with in_file(new):
            try:
                changes = await self._controller.reload(new)
            except (DuplexdError, OSError):
                await listeners.update(before.listeners)
                if self._controller.config is new:
                    self.config = new
                raise
            await listeners.update(rules.listeners, rules.policy)
        self._rules = rules
        return [
            *changes,
            *(f"listening on {address} again: its file was gone" for address in again),
        ]


def _read(old: Config, passed: Sequence[Address], given: Config | None) -> _Read:
    """The new configuration, if it can be served. Blocking: it looks at files and images."""
    new = given or load_in_time(old.source)
    refuse_fixed(old, new)
    refuse_problems(new, preflight.look(new) + preflight.look_at_images(new, old))
    with in_file(new):
        return _Read(new, Admission.of(new.control), Rules.of(new, passed))


def _added(old: Config, new: Config) -> list[Address]:
    return [each for each in new.nbd.addresses if each not in old.nbd.addresses]


def _refuse_taken(old: Config, new: Config) -> None:
    """Raise WrongStateError for a new address that cannot be had. Blocking."""
    for address in _added(old, new):
        if isinstance(address, TcpAddress):
            try:
                _bind(address)
            except OSError as error:
                why = error.strerror or str(error)
                raise WrongStateError(f"{new.source}: nbd.listen: '{address}': {why}") from None


def _bind(address: TcpAddress) -> None:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    for family, _, _, _, target in found:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)


def _rest_of(found: Sequence[str]) -> list[str]:
    """Those that neither the engine nor the listeners describe: rules, roles, certificates."""
    return [line for line in found if _is_of_rest(line.partition(": ")[0])]


def _is_of_rest(key: str) -> bool:
    if key.startswith("volumes."):
        return key.endswith((".allow", ".read_only"))
    if key.startswith("groups."):
        return key.endswith(("_suspend", ".hook_timeout"))
    return key.startswith(("nbd.", "control.", "health.", "scrub.")) and key != "nbd.listen"
