"""The daemon's life: lock, answer, recover, listen, say ready, reload on SIGHUP, drain and stop on
SIGTERM.

    start:  lock state_dir -> control socket (answers "starting") -> controller (recovery)
            -> NBD listeners -> TLS addresses -> the control socket answers for the controller
            -> READY
    stop:   STOPPING -> control socket (holds end, void) -> NBD listeners (drain)
            -> controller (sync, checkpoint) -> unlock

Holds end first in a stop, so that held writes are answered before the clients' connections close;
the controller ends last, because until then it may get changes.

A stop during the start abandons it: recovery can be interrupted anywhere and run again. That is so
from the first look at the state directory on, whose disk may hang. A stop that hangs is ended by
`ending.Deadline`.

**The watchdog** is fed as long as the event loop runs, whatever the disks do. A hung disk is no
reason to end the daemon: that would take the other volumes' clients away, and the new process would
hang at the same disk. The engine gives up a leg that hangs, and status says which.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, TypeVar

import structlog

from duplexd import __version__
from duplexd.api.starting import Starting
from duplexd.config.exposure import describe_exposure, refused_sockets
from duplexd.daemon import preflight
from duplexd.daemon.announce import Announcements
from duplexd.daemon.assembly import Assembly
from duplexd.daemon.departure import leave
from duplexd.daemon.ending import EXIT_NOT_STOPPED, Deadline
from duplexd.daemon.pools import Threads, calm_collector
from duplexd.daemon.spare_room import keep_rooms
from duplexd.daemon.startup import StateLock, refuse_problems
from duplexd.daemon.surroundings import watch
from duplexd.errors import ConfigurationError, DuplexdError
from duplexd.known import known
from duplexd.runtime.notify import notify, watchdog_interval_s

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from duplexd.daemon.assembly import Given, Running
    from duplexd.daemon.succession import Estate
    from duplexd.daemon.successor import Successor
    from duplexd.engine.controller import Controller

T = TypeVar("T")


class Service:
    """One running daemon. `run` returns when it has stopped. `leaves`: once it has stopped for a
    restart in place, what the next program goes on with.
    """

    def __init__(self, given: Given) -> None:
        config, limits = given.config, given.limits
        self._given = given
        self.config = config
        self.leaves: Estate | None = None
        self.successor: Successor | None = None
        self._restart = ""  # the id of the one that this stop is for
        self._stops = False  # by a signal, for good
        self.limits = limits
        self._log = structlog.get_logger("duplexd")
        self._stopping = asyncio.Event()
        self._reload = asyncio.Event()
        self._starting = Starting(config.controller.name)
        self._announcements = Announcements()
        self._assembly: Assembly | None = None
        self._deadline = Deadline(limits.daemon.stop_seconds_max, self._left)
        self._journal_watch: asyncio.Task[None] | None = None  # of a stop

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises DuplexdError or OSError if it cannot start, and if
        the controller had failed when it was stopped.
        """
        self._refuse_exposure()
        workers = Threads(asyncio.get_running_loop())
        lock = await self._unless_stopped(self._locked(workers))
        if lock is None:
            self._log.warning("stopped during the start", waited_for="the state directory")
            return
        if not await self._serve(workers, lock):
            return  # a thread may hang in what was given up, and nothing waits for it
        workers.close()
        lock.close()
        if self.leaves is None:
            self.refuse_failed()

    async def _locked(self, workers: Threads) -> StateLock:
        """The lock on the state directory, in a worker: its disk may hang."""
        look = asyncio.ensure_future(workers.disk.of("state").run(self._look_and_lock))
        try:
            await asyncio.wait((look,), timeout=self.limits.daemon.room_answer_seconds_max)
            if not look.done():
                path = self.config.controller.state_dir
                self._waits(f"{path}: the disk of the state directory does not answer")
            return await look
        finally:
            look.cancel()

    def _look_and_lock(self) -> StateLock:
        """Blocking."""
        first = not preflight.has_state(self.config)
        # A mistake in a new file leaves nothing behind. Later, an image may be on a disk that
        # hangs, and the control socket is to answer meanwhile.
        images = preflight.look_at_images(self.config) if first else []
        if not self._given.estate.id:  # the successor has looked
            refuse_problems(self.config, preflight.look(self.config) + images)
        if first and (missing := preflight.state_missing(self.config)):
            self._log.warning("images without a state", problem=missing)
        return StateLock(self.config)

    @property
    def _controller(self) -> Controller | None:
        return None if self._assembly is None else self._assembly.controller

    def refuse_failed(self) -> None:
        """After a stop: raises DuplexdError if the controller had failed before it."""
        if self._controller is not None and self._controller.failed:
            raise DuplexdError(
                f"stopped after the controller had failed: {self._controller.failed};"
                " the next start recovers"
            )

    def _refuse_exposure(self) -> None:
        """Raises ConfigurationError if there is nothing to serve, or a socket that was passed lets
        in more than is configured. What is open on purpose is logged.
        """
        nbd = self.config.nbd
        passed = [each.address for each in self._given.estate.passed.nbd]
        if not nbd.addresses and not passed:
            raise ConfigurationError(
                "nbd.listen: no address, and no socket was passed (LISTEN_FDS); write for example"
                ' listen = ["unix:/run/duplexd/alpha/nbd.sock"]'
            )
        for line in refused_sockets(self.config, passed):
            raise ConfigurationError(line)
        for line in describe_exposure(self.config):
            self._log.warning("NBD listener without protection", problem=line)

    def stop(self, number: int) -> None:
        """Stop in order: `run` returns, or the deadline ends the process."""
        self._log.info("stopping", signal=signal.Signals(number).name)
        notify("STOPPING=1\nSTATUS=stopping")
        self._restart, self._stops = "", True
        self._end()

    def restart(self, number: str, successor: Successor | None = None) -> None:
        """Stop in order, and leave sockets and clients to the next program; not if it stops."""
        self.successor = successor
        if self._stops:
            return
        now_us = time.monotonic_ns() // 1000
        notify(f"RELOADING=1\nMONOTONIC_USEC={now_us}\nSTATUS=restarting in place")
        self._restart = number
        self._end()

    def _end(self) -> None:
        self._deadline.begin()
        if self._controller is not None and self._journal_watch is None:
            seconds_max = self.limits.daemon.stop_journal_seconds_max
            watch = self._deadline.without_journal(self._controller.journal_waits_s, seconds_max)
            self._journal_watch = asyncio.get_running_loop().create_task(watch, name="journal")
        self._stopping.set()

    def goes_on(self) -> None:
        """It has stopped, and the process has not ended: there is no next program."""
        self._deadline.end()

    def _heard(self) -> None:
        """The program that this one stands in for is ready; or it has ended, and so does this."""
        link = known(self._given.link, "it stands in for somebody")
        asyncio.get_running_loop().remove_reader(link.fileno())
        if not link.hear(1.0):
            self._log.error("the program that this one stands in for has ended")
            os._exit(EXIT_NOT_STOPPED)
        self.restart(self._given.estate.id)

    def reload(self) -> None:
        """Read the configuration again, soon."""
        self._reload.set()

    def _left(self) -> str:
        """What a stop would still have to sync. Called in another thread: reads two numbers."""
        if self._controller is None:
            return "nothing: the start was not complete"
        writer = self._controller.timeline.writer
        if writer.written > writer.synced:
            return (
                f"the journal is written up to {writer.written}, but known to be synced only up to"
                f" {writer.synced}: a power cut now would lose what follows"
            )
        return (
            f"nothing that the journal has: it is synced up to {writer.synced}."
            " What hangs is an image, or the next write to the journal"
        )

    async def _serve(self, workers: Threads, lock: StateLock) -> bool:
        """Whether it came to serve, and has stopped in order."""
        self._log.info(
            "starting",
            controller=self.config.controller.name,
            volumes=len(self.config.volumes),
            version=__version__,
            pid=os.getpid(),
        )
        async with contextlib.AsyncExitStack() as undo:
            asking = asyncio.create_task(self._ask_for_time(), name="ask for time")
            undo.callback(asking.cancel)
            self._assembly = Assembly(
                self._given, workers, lock, undo, self._starting, self._announcements, self._waits,
                self.restart,
            )  # fmt: skip
            running = await self._unless_stopped(self._assembly.run())
            asking.cancel()
            if running is None:
                self._log.warning("stopped during the start; the next one begins recovery again")
                return False
            self._ready(running)
            calm_collector()
            if self._given.stands_in:
                link = known(self._given.link, "it stands in for somebody")
                asyncio.get_running_loop().add_reader(link.fileno(), self._heard)
            await self._until_stopped(running, workers)
            self.config = running.reloads.config
            if self._restart:
                estate, stands_in = self._given.estate, self._given.stands_in
                self.leaves = await leave(running, estate, self._restart, stands_in)
        return True

    async def _unless_stopped(self, work: Coroutine[None, None, T]) -> T | None:
        """The result of `work`, which is cancelled if a signal comes first: None."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.create_task(self._stopping.wait(), name="stop")
        try:
            await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set() and not task.done():
                task.cancel()
                await asyncio.wait((task,))
            return None if task.cancelled() else task.result()
        finally:
            stopped.cancel()
            task.cancel()

    # Starting

    def _waits(self, reason: str) -> None:
        self._log.warning("not possible yet, trying again", reason=reason)
        self._starting.at(f"waiting: {reason}")
        notify(f"STATUS=waiting: {reason}")

    async def _ask_for_time(self) -> None:
        """Ask the service manager for time as long as the loop runs: a start that it kills would
        begin again at the same place.
        """
        seconds = self.limits.daemon.start_extension_seconds
        while True:
            microseconds = int(seconds * 1e6)
            counts = self._given.estate.id  # the manager has never stopped to
            alive = "\nWATCHDOG=1" if counts else ""
            notify(f"STATUS={self._starting.text}\nEXTEND_TIMEOUT_USEC={microseconds}{alive}")
            await asyncio.sleep(seconds / 4)

    def _ready(self, running: Running) -> None:
        line = self._announcements.serve(running.controller.status)
        self._log.info(
            "ready",
            listen=[str(address) for address in running.listeners.addresses],
            control=str(self.config.control.socket),
            **self._remote(),
            serving=line,
        )
        if (done := running.restarts.last) is not None:
            how = self._log.error if done["failed"] else self._log.info
            how("not restarted" if done["failed"] else "restarted in place", **done)
        notify(f"READY=1\nSTATUS={line}")

    def _remote(self) -> dict[str, object]:
        tls = self.config.control.tls
        return {"control_tls": [address.authority for address in tls.listen]} if tls else {}

    # Serving

    async def _until_stopped(self, running: Running, workers: Threads) -> None:
        limits = self.limits.daemon
        tasks = [
            asyncio.create_task(running.reloads.on_signals(self._reload), name="reload"),
            asyncio.create_task(watchdog(), name="watchdog"),
            asyncio.create_task(
                watch(running.around, running.control.findings, limits), name="surroundings"
            ),
            *keep_rooms(self.config, limits, workers.disk.of("reserve")),
        ]
        stopped = asyncio.create_task(self._stopping.wait(), name="stop")
        try:
            done, _ = await asyncio.wait((*tasks, stopped), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (*tasks, stopped):
                task.cancel()
            await asyncio.gather(*tasks, stopped, return_exceptions=True)


async def watchdog() -> None:
    """Notify the service manager as long as the event loop runs. See above for why only that."""
    interval_s = watchdog_interval_s()
    if not interval_s:
        await asyncio.Event().wait()
        return
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s / 2)
