"""The parts of a daemon, put together in the order of a start: see `service.py`.

A stand-in listens for NBD clients, and for nobody else: the control socket and the addresses of the
API and of the metrics are the process's, which takes them once it is the next program.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import structlog

from duplexd.api.exporter import Exporter
from duplexd.api.metrics import nbd_metrics
from duplexd.api.page_source import PageSource
from duplexd.api.server import ControlServer
from duplexd.daemon import preflight
from duplexd.daemon.link import SERVES
from duplexd.daemon.nbd_rules import Rules, images_of
from duplexd.daemon.obtainable import obtainable
from duplexd.daemon.recovery import Recovery
from duplexd.daemon.reloading import Reloads
from duplexd.daemon.retry import Patience
from duplexd.daemon.spare_room import reserve_of, reserve_of_checkpoints
from duplexd.daemon.startup import in_file, refuse_problems
from duplexd.daemon.succession import NOTHING_LEFT, Estate
from duplexd.daemon.successor import Restarts
from duplexd.daemon.surroundings import Surroundings, outlook_on
from duplexd.engine.controller import Machine
from duplexd.nbd_server.listeners import Listeners
from duplexd.net.address import UnixAddress
from duplexd.runtime.clock import RealClock
from duplexd.runtime.disk import RealDisk
from duplexd.runtime.tally_file import TallyFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack

    from duplexd.api.starting import Starting
    from duplexd.config.daemon_file import Config
    from duplexd.daemon.announce import Announcements
    from duplexd.daemon.link import Link
    from duplexd.daemon.pools import Threads
    from duplexd.daemon.startup import StateLock
    from duplexd.daemon.successor import Successor
    from duplexd.engine.controller import Controller
    from duplexd.limits import Limits
    from duplexd.net.listen import BoundSocket
    from duplexd.runtime.threads import Workers


class Given(NamedTuple):
    """What a start begins with.

    `relay`: drives the event loop. `adopt`: images that belong to another state are taken as they
    are. `estate`: sockets that were passed, and what a program before this one left, over `link`.
    `stands_in`: it serves until the program at the other end of the link is ready to.
    """

    config: Config
    limits: Limits
    relay: Workers
    adopt: bool = False
    estate: Estate = NOTHING_LEFT
    link: Link | None = None
    stands_in: bool = False


class Running(NamedTuple):
    """The parts of a daemon that serves."""

    controller: Controller
    listeners: Listeners
    control: ControlServer
    reloads: Reloads
    restarts: Restarts
    around: Surroundings


class Assembly:
    """One start. `undo` gets what a stop does, the last first. `starting`: what the control socket
    answers until there is a controller. `waits` is called with what a start waits for; `restart`
    when the daemon is to end for the next program.
    """

    def __init__(
        self,
        given: Given,
        workers: Threads,
        lock: StateLock,
        undo: AsyncExitStack,
        starting: Starting,
        announcements: Announcements,
        waits: Callable[[str], None],
        restart: Callable[[str, Successor], None],
    ) -> None:
        self._given = given
        self._config = given.config
        self._limits = given.limits
        self._workers = workers
        self._lock = lock
        self._undo = undo
        self._starting = starting
        self._announcements = announcements
        self._restart = restart
        self._addresses = [each.address for each in given.estate.passed.nbd]
        bounds = self._limits.daemon
        if given.stands_in:  # clients wait, and the program before it can go on
            bounds = replace(bounds, passing_seconds_max=bounds.stand_in_passing_seconds)
        self._patience = Patience(bounds, waits)
        self.controller: Controller | None = None  # as soon as it has recovered

    async def run(self) -> Running:
        """Raises DuplexdError or OSError if it cannot serve."""
        config, given = self._config, self._given
        control = ControlServer(
            self._starting,
            config.control,
            self._limits.api,
            given.estate.passed.control or self._left_control(),
        )
        await self._answer(control)
        controller = await self._recover()
        rules = Rules.of(config, self._addresses)
        listeners, refused = await self._listen(controller, rules)
        await self._patience.until_possible(control.listen_remote)
        exporter = await self._exporter(control, listeners)
        reloads = Reloads(
            config, controller, listeners, control, self._workers.disk.of("reload"), rules,
            self._addresses, self._announcements,
        )  # fmt: skip
        restarts = Restarts(
            controller, reloads, self._workers.disk.of("restart"), self._restart, given.estate,
            self._lock.is_misplaced, refused,
        )  # fmt: skip
        around = Surroundings(
            str(config.controller.state_dir), controller.volumes.disks,
            self._workers.disk, self._limits.daemon, self._lock.is_misplaced,
            lambda: [*listeners.sockets, *control.sockets],
        )  # fmt: skip
        control.serve(
            controller,
            [lambda: nbd_metrics(listeners.server)],
            outlook_on(controller, around, self._workers.disk),
            reloads,
            restarts,
        )
        exporter.start()
        self._undo.push_async_callback(control.stop)  # once more, to be the first that stops
        return Running(controller, listeners, control, reloads, restarts, around)

    def _left_control(self) -> BoundSocket | None:
        """The control socket that was left. A stand-in keeps it as it is: who comes waits there."""
        if self._given.stands_in:
            return None
        return self._given.estate.control_at(UnixAddress(str(self._config.control.socket)))

    async def _answer(self, control: ControlServer) -> None:
        """At the control socket; or find that the process will be able to."""
        if self._given.stands_in:
            with in_file(self._config):
                await self._patience.until_possible(
                    lambda: obtainable(self._config, self._given.estate)
                )
            return
        await self._patience.until_possible(control.start)
        self._undo.push_async_callback(control.stop)

    async def _recover(self) -> Controller:
        config, workers = self._config, self._workers
        if not self._given.estate.id:  # the successor has looked
            images = await workers.disk.of("look").run(lambda: preflight.look_at_images(config))
            refuse_problems(config, images)
        disk = RealDisk(
            str(config.controller.state_dir), images_of(config), reserve_of_checkpoints(config)
        )
        tally = TallyFile(f"{config.control.socket}.tally")
        machine = Machine(
            disk, RealClock(), workers.disk, workers.journal, self._given.relay, tally
        )
        recovery = Recovery(
            config,
            machine,
            self._limits.engine,
            self._starting,
            reserve_of(config),
            self._announcements.event,
            self._given.adopt,
            grow=not self._given.stands_in,  # if it fails, the program before it could not shrink
        )
        controller = self.controller = await recovery.run(self._patience)
        self._undo.callback(structlog.get_logger("duplexd").info, "stopped")
        self._undo.push_async_callback(controller.stop)
        self._lock.serving()
        return controller

    async def _listen(self, controller: Controller, rules: Rules) -> tuple[Listeners, int]:
        """For NBD clients. With how many that the program before left may not go on."""
        given = self._given
        listeners = Listeners(
            controller, rules.listeners, self._limits.nbd, rules.policy, given.estate.passed.nbd,
            given.estate.listening,
        )  # fmt: skip

        async def listen() -> None:
            with in_file(self._config, "nbd.listen"):
                await listeners.start()

        await self._patience.until_possible(listen)
        self._undo.push_async_callback(listeners.stop)
        if given.link is not None:
            given.link.say(SERVES)
            if not given.stands_in:
                given.link.close()
        return listeners, listeners.adopt(given.estate.clients)

    async def _exporter(self, control: ControlServer, listeners: Listeners) -> Exporter:
        page = PageSource(control.look, lambda: listeners.server.traffic)
        exporter = Exporter(self._config.metrics.listen, control.scrape, page, self._limits.api)
        self._undo.push_async_callback(exporter.stop)
        if not self._given.stands_in:
            with in_file(self._config):
                await self._patience.until_possible(exporter.bind)
        return exporter
