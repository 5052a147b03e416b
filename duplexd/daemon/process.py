"""The process around a service: its signals, its event loop, and the program that comes after it.

A restart in place ends the service and not the process: see `successor.py`. The process becomes the
next program in `replacing.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING

from duplexd.daemon.assembly import Given
from duplexd.daemon.loading import load_in_time, parse_in_time, read_in_time
from duplexd.daemon.open_files import raise_limit, shared_out
from duplexd.daemon.pools import calm_collector
from duplexd.daemon.replacing import inherited, replaced
from duplexd.daemon.service import Service
from duplexd.daemon.startup import in_file
from duplexd.daemon.succession import Estate, hold_signals, send_again, take_signals
from duplexd.errors import DuplexdError
from duplexd.limits import Limits
from duplexd.net.activation import passed_sockets
from duplexd.runtime.allocator import keep_little
from duplexd.runtime.relay import Relay
from duplexd.runtime.turns import TurnLoop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from duplexd.config.daemon_file import Config
    from duplexd.daemon.link import Link
    from duplexd.daemon.replacing import Inherited

UMASK = 0o027
_STOPS = (signal.SIGTERM, signal.SIGINT)
_SIGNALS_MAX = 4096  # taken from the kernel at once


def run(config_path: str, adopt: bool = False) -> None:
    """Serve a configuration until a signal stops it. Raises DuplexdError or OSError if that is not
    possible, or if the controller has failed meanwhile.

    After a restart in place the next program does it. If that cannot be started, after all, this
    one goes on with the sockets and clients.
    """
    came = set[int]()
    before = inherited()  # what serves meanwhile stands in for this one
    link = before and before.link
    config, left_to_us = _configured(config_path, before)
    limits = _settled(config)
    with in_file(config):
        estate = left_to_us or Estate(passed=passed_sockets())
    while True:
        service = _serve(config, limits, adopt, estate, came, link)
        left, successor = service.leaves, service.successor
        if left is None or successor is None:
            return
        hold_signals()
        if not came.isdisjoint(_STOPS):  # too late for the service
            left.close()
            service.refuse_failed()
            return
        service.goes_on()
        estate, link = replaced(left, successor), successor.link
        config = _served_by(estate, service.config)
        limits = _settled(config)
        send_again(came)


def _served_by(estate: Estate, before: Config) -> Config:
    """The configuration of a stand-in that has given up its place: it has added volumes by it, and
    clients may have written to them. The one before is used if there was no stand-in, or if it is
    of a version that takes more.
    """
    with contextlib.suppress(DuplexdError):
        if estate.settings:
            return parse_in_time(estate.settings, before.source)
    return before


def _configured(path: str, before: Inherited | None) -> tuple[Config, Estate | None]:
    """The configuration, and what was left to us. It is what the stand-in has checked and serves
    by, whatever the file says by now. The file, most often the same, is parsed while the stand-in
    serves: with many volumes that takes a second or more, and clients would wait for it. So they
    would for the first collection.
    """
    if before is None:
        return load_in_time(path), None
    text, config = "", None
    with contextlib.suppress(DuplexdError):  # it is being edited
        text = read_in_time(path)
        config = parse_in_time(text, path)
    calm_collector()
    left_to_us = before.take()
    if left_to_us is not None and left_to_us.settings not in {"", text}:
        config = parse_in_time(left_to_us.settings, path)
    return config or load_in_time(path), left_to_us


def stand_in(config: Config, text: str, adopt: bool, link: Link) -> None:
    """Serve `config` in place of the program at the other end, while that becomes this one, too.
    `text` is that of its file.
    """
    limits, came = _settled(config), set[int]()
    estate = link.take()
    if estate is None:  # it has stopped
        return
    os.dup2(1, 2)  # what it refuses was read; what it logs goes where the log is
    service = _serve(config, limits, adopt, estate, came, link, stands_in=True)
    if service.leaves is not None:
        service.goes_on()  # the stop is done; how long the next start takes is not ours to say
        link.give(service.leaves._replace(settings=text))
        link.hear()  # that it serves, or has ended


def _settled(config: Config) -> Limits:
    """What the process is set to before it serves."""
    os.umask(UMASK)
    keep_little()
    calm_collector()
    return shared_out(Limits(), config, raise_limit())


def _serve(
    config: Config,
    limits: Limits,
    adopt: bool,
    estate: Estate,
    came: set[int],
    link: Link | None,
    stands_in: bool = False,
) -> Service:
    """Until a stop, or until a restart: then there is what it `leaves` to the next program. `came`
    gets the signals.
    """
    loop = TurnLoop()
    relay = Relay(loop)
    with contextlib.closing(loop), in_file(config):
        service = Service(Given(config, limits, relay, adopt, estate, link, stands_in))
        with receiving_signals(loop, service, came):
            take_signals()
            relay.drive(service.run())
    return service


@contextlib.contextmanager
def receiving_signals(
    loop: asyncio.AbstractEventLoop, service: Service, came: set[int]
) -> Iterator[None]:
    """Pass them on to the loop, whichever thread drives it. To be called in the main thread. Once
    the loop has ended those that came before, and those that come after that, are in `came`.

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
            signal.signal(number, lambda number, _frame: came.add(number))
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            loop.remove_reader(readable)
