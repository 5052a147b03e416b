"""`duplexd attach` and `duplexd detach`.

One process watches one device. It may be killed: the driver keeps the connections, and the next
process takes the device over, by what `backend` of sysfs says. Ending it by a signal detaches the
device, unless it is in use: then it stays attached, without anybody who would reconnect it, and a
start takes it over. So the program can be updated under a mounted file system.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

import structlog

from duplexd.attach import netlink
from duplexd.attach.driver import Driver
from duplexd.attach.export import Connection, Promised, look_at_export, open_export
from duplexd.attach.watcher import Watcher
from duplexd.errors import (
    ForbiddenError,
    NotFoundError,
    UnreachableError,
    WrongStateError,
)
from duplexd.runtime.notify import notify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.attach.device import NbdDevice
    from duplexd.json_object import Json
    from duplexd.limits import AttachLimits
    from duplexd.nbd.uri import NbdUri

LOCKS = "/run/duplexd-attach"  # one file a device: who holds it watches the device
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GONE_SECONDS_MAX = 60.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")


class Wishes(NamedTuple):
    """What the command line says. `wait_s`: for the volume, at the start."""

    uri: NbdUri
    connections: int
    timeout_s: int
    dead_timeout_s: int
    wait_s: float


def attach(device: NbdDevice, wishes: Wishes, limits: AttachLimits) -> None:
    """Attach, or take over, and watch until SIGTERM or until somebody detaches the device.

    Raises DuplexdError, with the device as it was.
    """
    with Driver() as driver, _alone(device), _signals() as stop:
        if device.is_attached:
            promised, known = _taken_over(device, wishes, limits), list[socket.socket]()
        elif (first := _first(wishes, limits, stop)) is None:
            return
        else:
            promised, known = _attached(driver, device, wishes, limits, first)
        settings = netlink.Device(
            device.number, wishes.timeout_s, wishes.dead_timeout_s, str(promised)
        )
        watcher = Watcher(
            driver,
            device,
            settings,
            promised,
            known,
            lambda: open_export(wishes.uri, limits.answer_seconds_max),
            lambda: look_at_export(wishes.uri, limits.answer_seconds_max),
            _say,
            _tell_systemd,
            limits,
        )
        notify("READY=1")
        try:
            stopped = watcher.run(stop)
        finally:
            watcher.close()
        _end(driver, device, stopped)


def detach(device: NbdDevice, force: bool) -> Json:
    """End a device that nobody uses. Raises WrongStateError if somebody does, without `force`."""
    with Driver() as driver:
        attached = device.is_attached
        if attached:
            if not force:
                device.refuse_if_used("unmount it first; --force takes it away from its user")
            driver.disconnect(device.number)
            _wait_detached(device)
    return {"device": device.path, "already": not attached}


def _taken_over(device: NbdDevice, wishes: Wishes, limits: AttachLimits) -> Promised:
    """What the process before this one has told the kernel. Raises WrongStateError for a device
    of somebody else, or that is another volume's.
    """
    promised = Promised.parse(device.backend)
    if promised is None:
        raise WrongStateError(
            f"{device.path} is in use: another program has attached it; take another device, or"
            " detach it first"
        )
    with contextlib.suppress(UnreachableError, NotFoundError):
        connection = open_export(wishes.uri, limits.answer_seconds_max)
        connection.end()
        if connection.identity != promised.identity:
            raise WrongStateError(
                f"{device.path} is attached to {promised.identity!r}, and {wishes.uri} is"
                f" {connection.identity!r}; take another device, or detach it first"
            )
    log.info("taken-over", device=device.path, volume=promised.identity)
    return promised


def _attached(
    driver: Driver, device: NbdDevice, wishes: Wishes, limits: AttachLimits, first: Connection
) -> tuple[Promised, list[socket.socket]]:
    with contextlib.ExitStack() as opened:
        connections = [first]
        opened.callback(first.end)
        count = wishes.connections if first.can_multi_conn else 1
        promised = first.promised(count)
        for _ in range(count - 1):
            connections.append(open_export(wishes.uri, limits.answer_seconds_max))
            opened.callback(connections[-1].end)
            if why := promised.broken_by(connections[-1], promised.size):
                raise WrongStateError(f"{wishes.uri}: {why}")
        settings = netlink.Device(
            device.number, wishes.timeout_s, wishes.dead_timeout_s, str(promised)
        )
        sockets = [each.sock for each in connections]
        driver.connect(settings, first.size, first.block_bytes, first.flags, sockets)
        opened.pop_all()
    _check(driver, device, promised)
    log.info(
        "attached",
        device=device.path,
        volume=promised.identity,
        size=promised.size,
        connections=count,
    )
    return promised, sockets


def _check(driver: Driver, device: NbdDevice, promised: Promised) -> None:
    """Whether the kernel did all of it. Raises WrongStateError, with the device detached."""
    if device.backend != str(promised):
        driver.disconnect(device.number)
        raise WrongStateError(
            "this kernel is too old: it does not remember which volume a device is; Linux 5.14 or"
            " newer is needed"
        )
    if device.size != promised.size:
        driver.disconnect(device.number)
        raise WrongStateError(
            f"{device.path} has {device.size} bytes, the volume {promised.size}; see dmesg"
        )


def _first(wishes: Wishes, limits: AttachLimits, stop: socket.socket) -> Connection | None:
    """The first connection, once the volume is there; None if a signal came before."""
    deadline = time.monotonic() + wishes.wait_s
    while True:
        try:
            return open_export(wishes.uri, limits.answer_seconds_max)
        except (UnreachableError, NotFoundError) as error:
            if time.monotonic() >= deadline:
                raise
            _tell_systemd(f"waiting for the volume: {error}")
        if select.select([stop], [], [], limits.retry_seconds_max)[0]:
            return None


def _end(driver: Driver, device: NbdDevice, stopped: bool) -> None:
    if not stopped:
        log.info("detached", device=device.path, by="another program")
        return
    notify("STOPPING=1")
    if user := device.user:
        log.warning(
            "left-attached",
            device=device.path,
            user=user,
            advice="nobody reconnects it now; start `duplexd attach` again, or unmount and detach",
        )
        return
    driver.disconnect(device.number)
    log.info("detached", device=device.path)


def _wait_detached(device: NbdDevice) -> None:
    """Programs that have it open keep it until they close it; for them it has failed already."""
    deadline = time.monotonic() + _GONE_SECONDS_MAX
    while device.is_attached and not device.user:
        if time.monotonic() > deadline:
            raise WrongStateError(f"{device.path} is still there; a program has it open")
        time.sleep(0.05)


@contextlib.contextmanager
def _alone(device: NbdDevice) -> Iterator[None]:
    """Two that watch one device would each replace what the other has lost."""
    path = f"{LOCKS}/nbd{device.number}"
    try:
        os.makedirs(LOCKS, mode=0o755, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except PermissionError as error:
        raise ForbiddenError(
            f"{path}: {error.strerror}; attaching devices is for root (CAP_SYS_ADMIN)"
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise WrongStateError(
            f"another `duplexd attach` watches {device.path}; end it first"
        ) from None
    finally:
        os.close(fd)


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket that can be read from once a signal came that ends the program."""
    read, written = socket.socketpair()
    written.setblocking(False)
    before = {each: signal.signal(each, lambda *_: None) for each in _SIGNALS}
    wakeup = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(wakeup)
        for each, handler in before.items():
            signal.signal(each, handler)
        read.close()
        written.close()


def _say(event: str, **fields: object) -> None:
    """Lost and found connections."""
    (log.warning if "error" in fields or event == "connection-lost" else log.info)(event, **fields)


def _tell_systemd(line: str) -> None:
    notify(f"STATUS={line}")
