"""The daemon's life: lock, recover, listen, say ready, reload on SIGHUP, drain and stop on SIGTERM.

    start:  lock state_dir -> controller (recovery) -> NBD listeners -> control socket -> READY
    stop:   STOPPING -> control socket (holds end, void) -> NBD listeners (drain)
            -> controller (sync, checkpoint) -> unlock

A stop reverses the order of a start. Holds end first, so that held writes are answered before the
clients' connections close; the controller ends last, because until then it may get changes.

A stop during recovery abandons it: recovery can be interrupted anywhere and run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from typing import TYPE_CHECKING

import structlog
import uvloop

from duplexd import __version__
from duplexd.api.metrics import nbd_metrics
from duplexd.api.server import Admission, ControlServer
from duplexd.config import load as configuration
from duplexd.daemon.startup import (
    StateLock,
    in_file,
    raise_open_files,
    refuse_fixed,
    refuse_problems,
)
from duplexd.engine.controller import Controller, Machine
from duplexd.engine.controller import start as start_controller
from duplexd.engine.events import Events
from duplexd.errors import DuplexdError
from duplexd.limits import JOURNAL_THREADS, WORKER_THREADS, Limits
from duplexd.nbd_server.listeners import Listeners
from duplexd.runtime.clock import RealClock
from duplexd.runtime.disk import RealDisk
from duplexd.runtime.notify import notify, watchdog_interval_s
from duplexd.runtime.threads import ThreadWorkers

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config
    from duplexd.json_object import Json

UMASK = 0o027
# Allocations between two runs of the cycle collector: cycles are rare, and not on the write path
GC_ALLOCATIONS = 20_000
START_EXTENSION_SECONDS = 60.0  # asked of systemd each time recovery has made progress
EVENT_LEVELS = {
    "controller-failed": "error",
    "primary-error": "error",
    "resync-failed": "error",
    "copied": "debug",
    "reloaded": "debug",
}


class Service:
    """One running daemon. `run` returns when it has stopped."""

    def __init__(self, config: Config, limits: Limits) -> None:
        self.config = config
        self.limits = limits
        self._log = structlog.get_logger("duplexd")
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises DuplexdError or OSError if it cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_on, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        refuse_problems(self.config)
        lock = StateLock(self.config)
        workers = Threads(loop)
        try:
            await self._serve(workers, lock)
        finally:
            workers.close()
            lock.close()

    def _stop_on(self, number: int) -> None:
        self._log.info("stopping", signal=signal.Signals(number).name)
        self._stop.set()

    async def _serve(self, workers: Threads, lock: StateLock) -> None:
        self._log.info(
            "starting",
            controller=self.config.controller.name,
            volumes=len(self.config.volumes),
            version=__version__,
            pid=os.getpid(),
        )
        controller = await self._recover(workers)
        if controller is None:
            return
        lock.serving()
        listeners = Listeners(controller, self.config.nbd.listen, self.limits.nbd)
        control = ControlServer(
            controller,
            self.config.control,
            self.limits.api,
            [lambda: nbd_metrics(listeners.server)],
        )
        async with contextlib.AsyncExitStack() as running:
            running.callback(self._log.info, "stopped")
            running.push_async_callback(controller.stop)
            with in_file(self.config, "nbd.listen"):
                await listeners.start()
            running.push_async_callback(listeners.stop)
            await control.start()
            running.push_async_callback(control.stop)
            running.callback(notify, "STOPPING=1\nSTATUS=draining")
            self._log.info(
                "ready",
                listen=[str(address) for address in self.config.nbd.listen],
                control=str(self.config.control.socket),
                **self._remote(),
            )
            notify(f"READY=1\nSTATUS=serving {len(self.config.volumes)} volumes")
            calm_collector()
            await self._until_stopped(controller, listeners, control, workers)

    def _remote(self) -> dict[str, object]:
        tls = self.config.control.tls
        return {"control_tls": [address.authority for address in tls.listen]} if tls else {}

    def _log_event(self, event: Json) -> None:
        """Every change of state is a line of the log."""
        fields = {key: value for key, value in event.items() if key not in {"event", "time"}}
        log = getattr(self._log, EVENT_LEVELS.get(event["event"], "info"))
        # later, so that the answer which a client waits for is sent first
        asyncio.get_running_loop().call_soon(lambda: log(event["event"], **fields))
        if event["event"] == "controller-failed":
            notify(f"STATUS=failed, refusing changes: {event['error']}")

    # Recovery

    def _progress(self, text: str) -> None:
        self._log.info("recovery", progress=text)
        still_starting(text)

    async def _recover(self, workers: Threads) -> Controller | None:
        """The controller; None if a signal stops the daemon meanwhile. The start-up time-out of the
        service manager is extended as long as the disk threads answer.
        """
        machine = Machine(RealDisk(), RealClock(), workers.disk, workers.journal)
        events = Events(machine.clock)
        events.listeners.append(self._log_event)
        limits = self.limits.engine
        start = start_controller(self.config, machine, events, limits, self._progress)
        recovery = asyncio.create_task(start, name="recovery")
        stopped = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            while True:
                await asyncio.wait(
                    (recovery, stopped),
                    timeout=START_EXTENSION_SECONDS / 4,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if recovery.done() or stopped.done():
                    break
                if await workers.answer(START_EXTENSION_SECONDS / 4):
                    still_starting("recovering")
        finally:
            stopped.cancel()
        if recovery.done():
            return recovery.result()
        recovery.cancel()
        await asyncio.gather(recovery, return_exceptions=True)
        self._log.warning("stopped during recovery; the next start begins recovery again")
        return None

    # Serving

    async def _until_stopped(
        self, controller: Controller, listeners: Listeners, control: ControlServer, workers: Threads
    ) -> None:
        tasks = [
            asyncio.create_task(
                self._reload_forever(controller, listeners, control), name="reload"
            ),
            asyncio.create_task(self._watchdog(workers), name="watchdog"),
        ]
        stopped = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait((*tasks, stopped), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (*tasks, stopped):
                task.cancel()
            await asyncio.gather(*tasks, stopped, return_exceptions=True)

    async def _watchdog(self, workers: Threads) -> None:
        """Notify the service manager as long as the loop and the disk threads answer."""
        interval_s = watchdog_interval_s()
        if not interval_s:
            await asyncio.Event().wait()
            return
        while True:
            if await workers.answer(interval_s / 2):
                notify("WATCHDOG=1")
            else:
                self._log.error("the worker threads do not answer", seconds=interval_s / 2)
            await asyncio.sleep(interval_s / 2)

    # Reload

    async def _reload_forever(
        self, controller: Controller, listeners: Listeners, control: ControlServer
    ) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            notify(
                f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"
                "\nSTATUS=reading the configuration again"
            )
            try:
                changes = await self._reload_once(controller, listeners, control)
            except (DuplexdError, OSError) as error:
                self._log.error("reload refused, nothing changed", problems=str(error).splitlines())
            else:
                self._log.info("reloaded", changes=changes)
            notify(f"READY=1\nSTATUS=serving {len(self.config.volumes)} volumes")

    async def _reload_once(
        self, controller: Controller, listeners: Listeners, control: ControlServer
    ) -> list[str]:
        """What changed. Raises DuplexdError with nothing changed."""
        new = configuration.load(self.config.source)
        refuse_fixed(self.config, new)
        refuse_problems(new, self.config)
        with in_file(new):
            admission = Admission.of(new.control)
        # New addresses are bound first, because that can fail and be undone. Removed ones are
        # closed last.
        added = [listen for listen in new.nbd.listen if listen not in self.config.nbd.listen]
        removed = [listen for listen in self.config.nbd.listen if listen not in new.nbd.listen]
        with in_file(new, "nbd.listen"):
            await listeners.update([*self.config.nbd.listen, *added])
        with in_file(new):
            try:
                changes = await controller.reload(new)
            except DuplexdError:
                await listeners.update(list(self.config.nbd.listen))
                raise
            await listeners.update(list(new.nbd.listen))
        control.admit(admission)
        if new.control.tls is not None:
            changes = [*changes, "certificates of control.tls read again"]
        self.config = new
        return [
            *changes,
            *(f"listening on {listen}" for listen in added),
            *(f"no longer listening on {listen}" for listen in removed),
        ]


class Threads:
    """The daemon's worker threads, in two pools, so that copies and reads never delay writes and
    syncs of the journal.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.disk = ThreadWorkers(loop, "disk", WORKER_THREADS)
        self.journal = ThreadWorkers(loop, "journal", JOURNAL_THREADS)
        self._probe = self.disk.of("probe")

    async def answer(self, seconds: float) -> bool:
        """Whether a thread runs a call within `seconds`. Not one that works on a disk: a daemon
        whose disk hangs is in order, and a restart would only make all others wait for it too.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._probe.run(time.monotonic)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self.journal.close()
        self.disk.close()


def still_starting(status: str) -> None:
    """Ask the service manager for more time: the start is making progress."""
    notify(f"STATUS={status}\nEXTEND_TIMEOUT_USEC={int(START_EXTENSION_SECONDS * 1e6)}")


def calm_collector() -> None:
    """Collect rarely: objects that exist when the daemon is ready stay, and those of a request are
    freed by reference counting.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)


def run(config: Config) -> None:
    """Serve `config` until a signal stops it. Raises DuplexdError or OSError if that is not
    possible.
    """
    os.umask(UMASK)
    raise_open_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, in_file(config):
        runner.run(Service(config, Limits()).run())
