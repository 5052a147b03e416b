"""A restart in place: another program takes this one's place in the process, and clients stay.

The next program is loaded in a process of its own, beside this one, which serves meanwhile: it
says that it takes this configuration, and that it reads what this one leaves (`duplexd successor`).
Until then nothing is given up, and a refusal changes nothing. So the pause has no import in it.
The file is read once, by this program; the others get its text, as it was checked.

    1. this program stops in order, and gives its estate to the successor, which serves as a
       **stand-in** (`link.py`)
    2. this process becomes the next program (exec), which is loaded while the stand-in serves
    3. the stand-in stops in order, gives the estate back, and ends

So the process stays for what watches it: a service manager, a container, a shell.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import structlog

from duplexd import __version__
from duplexd.daemon import preflight
from duplexd.daemon.link import READY, SERVES, go_on_waiting, linked
from duplexd.daemon.loading import parse_in_time, read_in_time
from duplexd.daemon.startup import refuse_problems
from duplexd.daemon.succession import FORMAT, READS
from duplexd.engine.live_changes import not_the_same
from duplexd.engine.opening import cannot_shrink, places
from duplexd.errors import ConfigurationError, DuplexdError, WrongStateError
from duplexd.images.absent import AbsentLeg
from duplexd.journal import checkpoint_file
from duplexd.journal import format as journal_format
from duplexd.limits import DaemonLimits
from duplexd.runtime.child import environment
from duplexd.runtime.in_time import Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from duplexd.config.daemon_file import Config
    from duplexd.core.pair import Pair
    from duplexd.daemon.link import Link
    from duplexd.daemon.reloading import Reloads
    from duplexd.daemon.succession import Estate
    from duplexd.engine.controller import Controller
    from duplexd.images.leg import Leg
    from duplexd.json_object import Json
    from duplexd.runtime.threads import Workers

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")

SUCCESSOR_SECONDS_MAX = 60.0  # for it to say that it can
SERVES_SECONDS_MAX = 60.0  # for it to serve, after a stop in order
KILLED_SECONDS_MAX = 10.0
AT_ONCE_SECONDS = 0.001
_TEXT_MAX = 2000  # of what it says
_STDERR = 2
_RELOAD = "put it back, or `duplexctl reload` first"


# What this program writes and the next one has to read, and what it reads itself
WRITES = {
    "estate": FORMAT,
    "checkpoint": checkpoint_file.VERSION,
    "journal": journal_format.VERSION,
}
_READS = {
    "estate": READS,
    "checkpoint": checkpoint_file.VERSIONS_READ,
    "journal": journal_format.VERSIONS_READ,
}


def own_command() -> list[str]:
    """The program and its arguments, as this process was started."""
    return [sys.executable, *sys.orig_argv[1:]]


class Restarts:
    """`begin` has the daemon end, and leave its estate with this id to this successor.
    `estate`: what the program before this one left; without an id there was none. `misplaced`:
    whether `state_dir` is not the directory that is used. `refused`: how many clients of the
    program before may not go on.
    """

    def __init__(
        self,
        controller: Controller,
        reloads: Reloads,
        workers: Workers,
        begin: Callable[[str, Successor], None],
        estate: Estate,
        misplaced: Callable[[], bool],
        refused: int = 0,
        command: Callable[[], Sequence[str]] = own_command,
    ) -> None:
        self._controller = controller
        self._reloads = reloads
        self._workers = workers
        self._begin = begin
        self._misplaced = misplaced
        self._command = command
        self._begun = False
        self._program = secrets.token_hex(8)  # this one, of those that there are in the process
        self.last: Json | None = _described(estate, refused) if estate.id else None

    async def restart(self, force: bool) -> Json:
        """Start the successor, then begin. Returns its version, this `program`, and the `id` by
        which the last program shows that this restart is done.

        Raises WrongStateError, with nothing changed, if it cannot take over, if a restart is under
        way, for images that hang, for a `state_dir` that is not there, for sizes that have to be
        reloaded first, and so volumes and secondaries that are not configured any more, for other
        images, and for clones, which end with the program, unless `force`.
        """
        clones = self._controller.clones.show()["clones"]
        if clones and not force:
            names = ", ".join(sorted(clone["name"] for clone in clones))
            raise WrongStateError(
                f"clones end with the program: {names}; drop them first, or use --force"
            )
        if self._begun:
            raise WrongStateError("a restart is under way")
        self._begun = True
        try:
            async with self._reloads.kept_out():  # a reload may add what would be given up
                successor = await self._successor()
        except BaseException:
            self._begun = False
            raise
        number = secrets.token_hex(8)
        log.info("restarting in place", version=__version__, next_version=successor.version)
        self._begin(number, successor)
        about = {"version": successor.version, "previous_version": __version__}
        return {"id": number, **about, "program": self._program}

    async def _successor(self) -> Successor:
        await self._workers.run(self._refuse_misplaced)
        with contextlib.suppress(OSError, DuplexdError):  # the stop says so
            await self._controller.checkpointer.checkpoint()  # what can be synced before it
        refuse_hung(self._controller.volumes.all())
        text = await self._checked()
        return await self._workers.run(lambda: begin_successor(self._command(), text))

    def _refuse_misplaced(self) -> None:
        """The next program would find another state, or none, and clients would lose their volumes.
        Blocking.
        """
        path = self._controller.config.controller.state_dir
        try:
            if not self._misplaced():
                return
            why = (
                "is not the directory that is used: it was deleted, moved or replaced, or something"
                " was mounted over it"
            )
        except OSError as error:
            why = f"cannot be looked at: {error.strerror or error}"
        raise _refused(f"{path} {why}")

    async def _checked(self) -> str:
        """The text of the file. Whether it is a configuration, the successor says."""
        source = self._controller.config.source
        try:
            text = await self._workers.run(lambda: read_in_time(source))
        except ConfigurationError as error:
            raise _refused(str(error)) from None
        with contextlib.suppress(ConfigurationError):
            settings = await self._workers.run(lambda: parse_in_time(text, source))
            pairs = list(self._controller.volumes.all())
            refuse_sizes(pairs, settings)
            refuse_less(pairs, settings)
            await self._workers.run(lambda: refuse_other_images(pairs, settings))
        return text

    def show(self) -> Json:
        """How this program came to serve."""
        return {"program": self._program, "last": self.last}


class Successor:
    """The program that can go on, in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], link: Link, version: str) -> None:
        self.link = link
        self.version = version
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def leave(self) -> None:
        """Hear no more of what it refuses."""
        if self._process.stderr is not None:
            self._process.stderr.close()

    def take_over(self, estate: Estate) -> str:
        """Give it the estate: "" once it serves. Otherwise the reason, and it has ended: the estate
        is as it was. Raises DuplexdError if the clients are not as they were. Blocking.
        """
        self.link.give(estate)
        if self.link.hear(SERVES_SECONDS_MAX, go_on_waiting) == SERVES:
            return ""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a disk has it; the lock says more
            self._process.wait(KILLED_SECONDS_MAX)
        late = self.link.hear(AT_ONCE_SECONDS)
        self.link.close()
        self.leave()
        if late == SERVES:
            raise DuplexdError("the next program has failed while it took over; start it again")
        return "it ended before it served; see the log"


def begin_successor(command: Sequence[str], settings: str) -> Successor:
    """The program that `command` starts, loaded, with this configuration. Raises WrongStateError if
    it cannot take over. Blocking.
    """
    formats = [f"{what}={number}" for what, number in WRITES.items()]
    link, theirs = linked()
    # In memory: a program is to be replaced on a machine with a full disk, too
    with theirs, os.fdopen(os.memfd_create("duplexd-settings", os.MFD_CLOEXEC), "r+b") as file:
        file.write(settings.encode())
        file.seek(0)
        try:
            at = list(command).index("run")
            linking = ["successor", "--link", str(theirs.fileno())]
            process = subprocess.Popen(
                [*command[:at], *linking, *command[at + 1 :], *formats],
                stdin=file,
                stdout=_STDERR,  # where it writes once it serves; what it refuses is read here
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env=environment({}),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            link.close()
            why = (isinstance(error, OSError) and error.strerror) or str(error)
            raise _refused(f"it cannot be started: {why}") from None
    said, _, version = link.hear(SUCCESSOR_SECONDS_MAX).partition(" ")
    if said == READY:
        return Successor(process, link, version)
    link.close()
    process.kill()
    _, errors = process.communicate()
    text = errors.decode(errors="replace").strip()[-_TEXT_MAX:]
    code = process.returncode
    raise _refused(text.removeprefix("duplexd: ") or f"it does not say that it can (exit {code})")


def refuse_hung(pairs: Iterable[Pair]) -> None:
    """Raises WrongStateError for an image that does not answer: a thread is in a call on it, and
    the program could not be replaced before that returns.
    """
    for pair in pairs:
        for leg in (pair.primary, pair.secondary):
            if isinstance(leg, AbsentLeg) and leg.busy:
                raise WrongStateError(
                    f"{pair.name}: the image {leg.path} does not answer, and nothing changed;"
                    " restart once it does"
                )


def refuse_sizes(pairs: Iterable[Pair], settings: Config) -> None:
    """Raises WrongStateError for a volume that the next program would not serve, or that it would
    fill a device for while clients wait.
    """
    for pair in pairs:
        volume = settings.volumes.get(pair.name)
        if volume is None or pair.failed:
            continue
        if volume.size < pair.size:
            raise _refused(cannot_shrink(pair.name, pair.size, volume.size))
        devices = [
            leg for leg in (pair.primary, pair.secondary) if leg is not None and leg.is_block
        ]
        if volume.size > pair.size and devices:
            raise _refused(
                f"volumes.{pair.name}.size: {devices[0].path} is filled with zeroes before the"
                " volume grows, and clients would wait for it: `duplexctl reload` first"
            )


def refuse_less(pairs: Iterable[Pair], settings: Config) -> None:
    """Raises WrongStateError for a volume or a secondary that the next program would give up. If
    that failed, the one that goes on would have it in its configuration still, and begin it anew,
    over a cut.
    """
    for pair in pairs:
        volume = settings.volumes.get(pair.name)
        if volume is None:
            raise _refused(f"volumes.{pair.name}: it is not there any more: {_RELOAD}")
        if pair.secondary is not None and volume.secondary is None:
            raise _refused(f"volumes.{pair.name}.secondary: it is not there any more: {_RELOAD}")


def refuse_other_images(pairs: Iterable[Pair], settings: Config) -> None:
    """Raises WrongStateError for a volume of whose images none would be the one that it is served
    from, because the next program would not serve it, or from its secondary alone; and for one that
    would have another secondary. Blocking.
    """
    patience = Patience(DaemonLimits().look_seconds_max)
    for pair in pairs:
        volume = settings.volumes.get(pair.name)
        if volume is None or pair.failed:
            continue
        paths = [str(path) for path in (volume.primary, volume.secondary) if path is not None]
        here, there = places(volume, pair.record.swapped)
        if not _leads_to(patience, pair, pair.primary, paths):
            raise _refused(not_the_same(pair, here))
        secondary = pair.secondary
        if secondary is None or there is None or secondary.path in paths:
            continue
        if not _leads_to(patience, pair, secondary, paths):
            key = f"volumes.{pair.name}.{there.key}"
            raise _refused(f"{key}: {there.path} is not the image that is used: {_RELOAD}")


def _leads_to(patience: Patience, pair: Pair, leg: Leg, paths: Sequence[str]) -> bool:
    """Whether one of the paths leads to an image that a pair uses, or that image is not there."""
    if isinstance(leg, AbsentLeg):
        return True
    try:
        return patience.call(lambda: any(leg.in_place(path) for path in paths))
    except OSError as error:
        why = f"{pair.name}: {error.strerror or error}: {', '.join(paths)}"
        raise _refused(why) from None


def _refused(why: str) -> WrongStateError:
    return WrongStateError(f"the next program cannot take over, and nothing changed: {why}")


def succeed(config_path: str, text: str, formats: Sequence[str]) -> Config:
    """The configuration, whose text this is, if this program can take the place of one that writes
    `formats`, each as NAME=NUMBER. Raises ConfigurationError or WrongStateError if it cannot.
    """
    for written in formats:
        what, _, number = written.partition("=")
        read = _READS.get(what, ())
        if not number.isdigit() or int(number) not in read:
            raise WrongStateError(
                f"the daemon that runs writes {written}, and version {__version__} reads"
                f" {', '.join(map(str, read)) or 'no such thing'}; stop it and start this one"
            )
    settings = parse_in_time(text, config_path)
    refuse_problems(settings, preflight.look(settings))
    for problem in preflight.look_at_images(settings):
        if problem.hangs:  # clients would wait for it
            raise WrongStateError(f"{problem.line}; restart once it does")
    return settings


def _described(estate: Estate, refused: int) -> Json:
    return {
        "id": estate.id,
        "time": time.time(),
        "pause_s": max(estate.pause_ns, time.monotonic_ns() - estate.began_ns) / 1e9,
        "clients_kept": len(estate.clients) - refused,
        "clients_lost": estate.lost + refused,
        "previous_version": estate.version,
        "failed": estate.failed or None,
    }
