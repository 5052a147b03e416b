"""The daemon's life: lock, answer, recover, listen, say ready, reload on SIGHUP, drain and stop on
SIGTERM.

    start:  lock state_dir -> control socket (answers "starting") -> controller (recovery)
            -> NBD listeners -> TLS addresses -> the control socket answers for the controller
            -> READY
    stop:   STOPPING -> control socket (holds end, void) -> NBD listeners (drain)
            -> controller (sync, checkpoint) -> unlock

Holds end first in a stop, so that held writes are answered before the clients' connections close;
the controller ends last, because until then it may get changes.

A stop during the start abandons it: recovery can be interrupted anywhere and run again. A stop that
hangs is ended by `ending.Deadline`.

**The watchdog** is fed as long as the event loop runs, whatever the disks do. A hung disk is no
reason to end the daemon: that would take the other volumes' clients away, and the new process would
hang at the same disk. The engine gives up a leg that hangs, and status says which.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import structlog

from duplexd import __version__
from duplexd.api.exporter import Exporter
from duplexd.api.metrics import nbd_metrics
from duplexd.api.page_source import PageSource
from duplexd.api.server import ControlServer
from duplexd.api.starting import Starting
from duplexd.config.exposure import describe_exposure, refused_sockets
from duplexd.daemon import preflight
from duplexd.daemon.announce import Announcements
from duplexd.daemon.ending import Deadline
from duplexd.daemon.nbd_rules import Rules, images_of
from duplexd.daemon.open_files import raise_limit, shared_out
from duplexd.daemon.recovery import Recovery
from duplexd.daemon.reloading import Reloads
from duplexd.daemon.retry import Patience
from duplexd.daemon.spare_room import keep_room
from duplexd.daemon.startup import StateLock, in_file, refuse_problems
from duplexd.daemon.surroundings import Surroundings, outlook_on, watch
from duplexd.engine.controller import Machine
from duplexd.errors import ConfigurationError, DuplexdError
from duplexd.limits import JOURNAL_THREADS, WORKER_THREADS, Limits
from duplexd.nbd_server.listeners import Listeners
from duplexd.net.activation import NOTHING_PASSED, Passed, passed_sockets
from duplexd.runtime.allocator import keep_little
from duplexd.runtime.clock import RealClock
from duplexd.runtime.disk import RealDisk
from duplexd.runtime.notify import notify, watchdog_interval_s
from duplexd.runtime.relay import Relay
from duplexd.runtime.reserve import Reserve
from duplexd.runtime.threads import ThreadWorkers
from duplexd.runtime.turns import TurnLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from duplexd.config.daemon_file import Config
    from duplexd.engine.controller import Controller
    from duplexd.runtime.threads import Workers

T = TypeVar("T")

UMASK = 0o027
# Allocations between two runs of the cycle collector: cycles are rare, and not on the write path
GC_ALLOCATIONS = 20_000
_SIGNALS_MAX = 4096  # taken from the kernel at once


class Running(NamedTuple):
    """The parts of a daemon that serves."""

    controller: Controller
    listeners: Listeners
    control: ControlServer
    reloads: Reloads
    around: Surroundings


class Service:
    """One running daemon. `run` returns when it has stopped. `adopt`: images that belong to another
    state are taken as they are.
    """

    def __init__(
        self,
        config: Config,
        limits: Limits,
        relay: Workers,
        adopt: bool = False,
        passed: Passed = NOTHING_PASSED,
    ) -> None:
        self.config = config
        self._passed = passed
        self._passed_addresses = [each.address for each in passed.nbd]
        self.limits = limits
        self._relay = relay
        self._adopt = adopt
        self._log = structlog.get_logger("duplexd")
        self._stopping = asyncio.Event()
        self._reload = asyncio.Event()
        self._starting = Starting(config.controller.name)
        self._announcements = Announcements()
        self._controller: Controller | None = None
        self._deadline = Deadline(limits.daemon.stop_seconds_max, self._left)
        self._journal_watch: asyncio.Task[None] | None = None  # of a stop

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises DuplexdError or OSError if it cannot start, and if
        the controller had failed when it was stopped.
        """
        self._refuse_exposure()
        first = not preflight.has_state(self.config)
        # A mistake in a new file leaves nothing behind. Later, an image may be on a disk that
        # hangs, and the control socket is to answer meanwhile.
        images = preflight.look_at_images(self.config) if first else []
        refuse_problems(self.config, preflight.look(self.config) + images)
        if first and (missing := preflight.state_missing(self.config)):
            self._log.warning("images without a state", problem=missing)
        lock = StateLock(self.config)
        workers = Threads(asyncio.get_running_loop())
        if not await self._serve(workers, lock):
            return  # a thread may hang in what was given up, and nothing waits for it
        workers.close()
        lock.close()
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
        if not nbd.addresses and not self._passed.nbd:
            raise ConfigurationError(
                "nbd.listen: no address, and no socket was passed (LISTEN_FDS); write for example"
                ' listen = ["unix:/run/duplexd/alpha/nbd.sock"]'
            )
        for line in refused_sockets(self.config, self._passed_addresses):
            raise ConfigurationError(line)
        for line in describe_exposure(self.config):
            self._log.warning("NBD listener without protection", problem=line)

    def stop(self, number: int) -> None:
        """Stop in order: `run` returns, or the deadline ends the process."""
        self._log.info("stopping", signal=signal.Signals(number).name)
        notify("STOPPING=1\nSTATUS=stopping")
        self._deadline.begin()
        if self._controller is not None and self._journal_watch is None:
            seconds_max = self.limits.daemon.stop_journal_seconds_max
            watch = self._deadline.without_journal(self._controller.journal_waits_s, seconds_max)
            self._journal_watch = asyncio.get_running_loop().create_task(watch, name="journal")
        self._stopping.set()

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
            running = await self._unless_stopped(self._start(workers, lock, undo))
            asking.cancel()
            if running is None:
                self._log.warning("stopped during the start; the next one begins recovery again")
                return False
            self._ready(running)
            calm_collector()
            await self._until_stopped(running, workers)
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

    async def _start(
        self, workers: Threads, lock: StateLock, undo: contextlib.AsyncExitStack
    ) -> Running:
        config, limits = self.config, self.limits
        patience = Patience(limits.daemon, self._waits)
        control = ControlServer(self._starting, config.control, limits.api, self._passed.control)
        await patience.until_possible(control.start)
        undo.push_async_callback(control.stop)
        images = await workers.disk.of("look").run(lambda: preflight.look_at_images(config))
        refuse_problems(config, images)
        disk = RealDisk(str(config.controller.state_dir), images_of(config))
        machine = Machine(disk, RealClock(), workers.disk, workers.journal, self._relay)
        reserve = reserve_of(config)
        recovery = Recovery(
            config,
            machine,
            limits.engine,
            self._starting,
            reserve,
            self._announcements.event,
            self._adopt,
        )
        controller = self._controller = await recovery.run(patience)
        undo.callback(self._log.info, "stopped")
        undo.push_async_callback(controller.stop)
        lock.serving()
        rules = Rules.of(config, self._passed_addresses)
        listeners = Listeners(
            controller, rules.listeners, limits.nbd, rules.policy, self._passed.nbd
        )

        async def listen() -> None:
            with in_file(config, "nbd.listen"):
                await listeners.start()

        await patience.until_possible(listen)
        undo.push_async_callback(listeners.stop)
        await patience.until_possible(control.listen_remote)
        around = Surroundings(
            str(config.controller.state_dir), controller.status, workers.disk, limits.daemon
        )
        outlook = outlook_on(controller, around, workers.disk)
        page = PageSource(control.look, lambda: listeners.server.traffic)
        exporter = Exporter(config.metrics.listen, control.scrape, page, limits.api)
        undo.push_async_callback(exporter.stop)
        with in_file(config):
            await patience.until_possible(exporter.bind)
        reloads = Reloads(
            config, controller, listeners, control, workers.disk.of("reload"), rules,
            self._passed_addresses, self._announcements,
        )  # fmt: skip
        control.serve(controller, [lambda: nbd_metrics(listeners.server)], outlook, reloads)
        exporter.start()
        undo.push_async_callback(control.stop)  # once more, to be the first that stops
        return Running(controller, listeners, control, reloads, around)

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
            notify(f"STATUS={self._starting.text}\nEXTEND_TIMEOUT_USEC={microseconds}")
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
            asyncio.create_task(
                keep_room(reserve_of(self.config), limits, workers.disk.of("reserve")),
                name="reserve",
            ),
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


class Threads:
    """The daemon's worker threads, in two pools, so that copies and reads never delay writes and
    syncs of the journal.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.disk = ThreadWorkers(loop, "disk", WORKER_THREADS)
        self.journal = ThreadWorkers(loop, "journal", JOURNAL_THREADS)

    def close(self) -> None:
        self.journal.close()
        self.disk.close()


async def watchdog() -> None:
    """Notify the service manager as long as the event loop runs. See above for why only that."""
    interval_s = watchdog_interval_s()
    if not interval_s:
        await asyncio.Event().wait()
        return
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s / 2)


def reserve_of(config: Config) -> Reserve:
    """The room that is kept for a start on a full disk."""
    return Reserve(str(config.controller.state_dir / "reserve"))


@contextlib.contextmanager
def receiving_signals(loop: asyncio.AbstractEventLoop, service: Service) -> Iterator[None]:
    """Pass them on to the loop, whichever thread drives it. To be called in the main thread.

    The kernel gives a signal to any thread, to another one than the main thread as a rule if that
    still has one to handle. Python runs its handlers in the main thread only, which waits for
    nothing but the end, and is not woken for it: a stop just after a reload would be lost. What
    Python does at once, in whichever thread, is to write the number to the wake-up descriptor.
    """
    actions: dict[int, Callable[[], None]] = {
        signal.SIGTERM: lambda: service.stop(signal.SIGTERM),
        signal.SIGINT: lambda: service.stop(signal.SIGINT),
        signal.SIGHUP: service.reload,
    }
    readable, writable = socket.socketpair()

    def receive() -> None:
        for number in readable.recv(_SIGNALS_MAX):
            if number in actions:
                actions[number]()

    with readable, writable:
        readable.setblocking(False)
        writable.setblocking(False)
        loop.add_reader(readable, receive)
        signal.set_wakeup_fd(writable.fileno(), warn_on_full_buffer=False)
        for number in actions:
            signal.signal(number, _received)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            loop.remove_reader(readable)


def _received(_number: int, _frame: object) -> None:
    """The loop has its number already."""


def calm_collector() -> None:
    """Collect rarely: objects that exist when the daemon is ready stay, and those of a request are
    freed by reference counting.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)


def run(config: Config, adopt: bool = False) -> None:
    """Serve `config` until a signal stops it. Raises DuplexdError or OSError if that is not
    possible, or if the controller has failed meanwhile.
    """
    os.umask(UMASK)
    keep_little()
    limits = shared_out(Limits(), config, raise_limit())
    loop = TurnLoop()
    relay = Relay(loop)
    with contextlib.closing(loop), in_file(config):
        service = Service(config, limits, relay, adopt, passed_sockets())
        with receiving_signals(loop, service):
            relay.drive(service.run())
