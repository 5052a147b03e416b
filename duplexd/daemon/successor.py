"""A restart in place: another program takes this one's place in the process, and clients stay.

First the successor is asked, as a program of its own: that it starts, that it takes this
configuration, and that it reads what this one leaves (`duplexd successor`). Until it has said so
nothing is given up, and a refusal changes nothing. Then the daemon stops in order, except that
sockets and clients are left to the successor (`succession.py`).
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import structlog

from duplexd import __version__
from duplexd.daemon import preflight
from duplexd.daemon.loading import load_in_time
from duplexd.daemon.startup import refuse_problems
from duplexd.daemon.succession import FORMAT, READS
from duplexd.errors import WrongStateError
from duplexd.journal import checkpoint_file
from duplexd.journal import format as journal_format
from duplexd.runtime.child import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from duplexd.config.daemon_file import Config
    from duplexd.daemon.succession import Estate
    from duplexd.engine.controller import Controller
    from duplexd.json_object import Json
    from duplexd.runtime.threads import Workers

log: structlog.stdlib.BoundLogger = structlog.get_logger("duplexd")

SUCCESSOR_SECONDS_MAX = 60.0  # for it to say that it can
_TEXT_MAX = 2000  # of what it says


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
    """`config`: the one in force. `begin` has the daemon end, and leave its estate with this id.
    `estate`: what the program before this one left; without an id there was none. `refused`: how
    many of its clients may not go on.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        controller: Controller,
        workers: Workers,
        begin: Callable[[str], None],
        estate: Estate,
        refused: int = 0,
        command: Callable[[], Sequence[str]] = own_command,
    ) -> None:
        self._config = config
        self._controller = controller
        self._workers = workers
        self._begin = begin
        self._command = command
        self._begun = False
        self._program = secrets.token_hex(8)  # this one, of those that there are in the process
        self.last: Json | None = _described(estate, refused) if estate.id else None

    async def restart(self, force: bool) -> Json:
        """Ask the successor, then begin. Returns its version, this `program`, and the `id` by which
        the successor shows that this restart is done.

        Raises WrongStateError, with nothing changed, if it cannot take over, if a restart is under
        way, and for clones, which end with the program, unless `force`.
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
            source = str(self._config().source)
            version = await self._workers.run(lambda: ask_successor(self._command(), source))
        except BaseException:
            self._begun = False
            raise
        number = secrets.token_hex(8)
        log.info("restarting in place", version=__version__, next_version=version)
        self._begin(number)
        about = {"version": version, "previous_version": __version__, "program": self._program}
        return {"id": number, **about}

    def show(self) -> Json:
        """How this program came to serve."""
        return {"program": self._program, "last": self.last}


def ask_successor(command: Sequence[str], source: str) -> str:
    """The version of the program that `command` starts, if it can take over. Raises
    WrongStateError. Blocking.
    """
    formats = [f"{what}={number}" for what, number in WRITES.items()]
    try:
        program = [*command[: list(command).index("run")], "successor", "--config", source]
        ended = subprocess.run(
            [*program, *formats],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SUCCESSOR_SECONDS_MAX,
            env=environment({}),
            start_new_session=True,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        raise _refused(f"it cannot be started: {why}") from None
    if ended.returncode:
        said = ended.stderr.decode(errors="replace").strip()[-_TEXT_MAX:]
        raise _refused(said.removeprefix("duplexd: ") or f"exit code {ended.returncode}")
    try:
        return str(json.loads(ended.stdout)["version"])
    except (ValueError, KeyError, TypeError):
        raise _refused("it does not say that it can") from None


def _refused(why: str) -> WrongStateError:
    return WrongStateError(f"the next program cannot take over, and nothing changed: {why}")


def succeed(config_path: str, formats: Sequence[str]) -> str:
    """What `duplexd successor` prints if this program can take the place of one that writes
    `formats`, each as NAME=NUMBER, with this configuration. Raises ConfigurationError or
    WrongStateError if it cannot.
    """
    for text in formats:
        what, _, number = text.partition("=")
        read = _READS.get(what, ())
        if not number.isdigit() or int(number) not in read:
            raise WrongStateError(
                f"the daemon that runs writes {text}, and version {__version__} reads"
                f" {', '.join(map(str, read)) or 'no such thing'}; stop it and start this one"
            )
    settings = load_in_time(config_path)
    refuse_problems(settings, preflight.look(settings))
    return json.dumps({"version": __version__})


def _described(estate: Estate, refused: int) -> Json:
    return {
        "id": estate.id,
        "time": time.time(),
        "pause_s": (time.monotonic_ns() - estate.began_ns) / 1e9,
        "clients_kept": len(estate.clients) - refused,
        "clients_lost": estate.lost + refused,
        "previous_version": estate.version,
        "failed": estate.failed or None,
    }
