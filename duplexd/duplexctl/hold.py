"""`duplexctl quiesce`: keeps a hold while a command runs, or until it is told to stop, and says truthfully whether the hold lasted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from duplexd.duplexctl.output import complain
from duplexd.errors import DuplexdError, LeaseLostError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from duplexd.duplexctl.client import Client

    Json = dict[str, Any]

LEASE_VARIABLE = "DUPLEXD_LEASE"
RELEASE_TIMEOUT_S = 5.0
EXIT_NOT_EXECUTABLE = 126
EXIT_NO_COMMAND = 127
_RELEASED = "released"


class Interrupted(BaseException):
    """SIGINT or SIGTERM came. A BaseException, so that no handler of errors takes it for one."""


def release(client: Client, lease_id: str) -> Json:
    return client.call("DELETE", f"/v1/leases/{quote(lease_id, safe='')}")


class Hold:
    """A hold, from its `held` line on; `watch` follows its stream in a thread until it ends, for whatever reason."""

    def __init__(self, client: Client, lines: Iterator[Json]) -> None:
        self._client = client
        self._lines = lines
        first = next(lines, None)
        if first is None or first.get("event") != "held":
            raise UnreachableError(
                f"the daemon at {client.path} broke off before the hold began; see its log"
            )
        self.first = first
        self.lease_id: str = first["lease"]["id"]
        self.ended: Json | None = None
        self._over = threading.Event()
        self._ours = False  # whether it was this process that released it

    def watch(self, when_ended: Callable[[], None]) -> None:
        """Follow the hold in a thread of its own; `when_ended` is called there, as soon as it has."""

        def follow() -> None:
            with contextlib.suppress(
                DuplexdError
            ):  # the daemon went away, and the hold with it: there is no `ended` line
                for line in self._lines:
                    if line.get("event") == "ended":
                        self.ended = line
            self._over.set()
            when_ended()

        threading.Thread(target=follow, name="hold", daemon=True).start()

    def wait(self) -> None:
        """Return when the hold has ended."""
        self._over.wait()

    @property
    def lost(self) -> bool:
        """Has it ended otherwise than by its owner's will?"""
        return self._over.is_set() and (self.ended is None or self.ended["verdict"] != "consistent")

    @property
    def taken(self) -> bool:
        """Has somebody else released it? A suspend under the lease is no release."""
        return self.ended is not None and self.ended["reason"] == _RELEASED and not self._ours

    @property
    def reason(self) -> str:
        if self.taken:
            return "released by somebody else"
        return self.ended["reason"] if self.ended else "the daemon went away"

    def release(self) -> None:
        """End it and wait for the word that it ended; afterwards `lost` and `taken` are final."""
        self._ours = True
        with contextlib.suppress(DuplexdError):
            self._ours = release(self._client, self.lease_id)[
                "released"
            ]  # else it had ended before
        if not self._over.wait(RELEASE_TIMEOUT_S):
            self.ended = None
            self._over.set()


def _lost_error(hold: Hold) -> LeaseLostError:
    hint = "nothing done under it counts; quiesce again" + (
        "" if hold.taken else ", with a longer --hold or less to do"
    )
    return LeaseLostError(f"the hold {hold.lease_id} was lost ({hold.reason}); {hint}")


@contextlib.contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def cannot_run(command: Sequence[str], error: OSError) -> int:
    """Say why the command did not start; the exit code, as a shell has it."""
    if isinstance(error, FileNotFoundError):
        complain(f"no command {command[0]!r}")
        return EXIT_NO_COMMAND
    complain(f"cannot run {command[0]!r}: {error.strerror}")
    return EXIT_NOT_EXECUTABLE


def _run_command(hold: Hold, command: Sequence[str]) -> int:
    """Run it to its end; SIGTERM is passed on to it, SIGINT it gets from the terminal itself."""
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if child is not None and number == signal.SIGTERM:
            child.send_signal(number)

    with _handlers(pass_on):
        try:
            child = subprocess.Popen(
                list(command), env={**os.environ, LEASE_VARIABLE: hold.lease_id}
            )
        except OSError as error:
            return cannot_run(command, error)
        status = child.wait()
    return status if status >= 0 else 128 - status


def hold_while(
    client: Client, body: Json, command: Sequence[str], on_end: Callable[[Json], None]
) -> int:
    """Hold, run `command`, release; its status. LeaseLostError if the hold was lost before it ended. `on_end` gets what happened."""
    with client.stream("POST", "/v1/quiesce", body) as lines:
        hold = Hold(client, lines)

        def warn() -> None:
            if hold.lost or hold.taken:
                complain(f"the hold {hold.lease_id} is lost: {hold.reason}")

        hold.watch(warn)
        status = _run_command(hold, command)
        hold.release()
    lost = hold.lost or hold.taken
    on_end(
        {
            "lease": hold.lease_id,
            "status": status,
            "verdict": "void" if lost else "consistent",
            "reason": hold.reason,
        }
    )
    if lost:
        raise _lost_error(hold)
    return status


def hold_here(
    client: Client, body: Json, on_held: Callable[[Json], None], on_end: Callable[[Json], None]
) -> None:
    """Hold until SIGINT or SIGTERM (then release), or until the hold ends, by whomever. LeaseLostError if it was lost."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted

    with client.stream("POST", "/v1/quiesce", body) as lines:
        hold = Hold(client, lines)
        hold.watch(lambda: None)
        try:
            with _handlers(interrupt):
                on_held(hold.first)
                hold.wait()
        except Interrupted:
            hold.release()
    on_end(
        {
            "lease": hold.lease_id,
            "verdict": "void" if hold.lost else "consistent",
            "reason": hold.reason,
        }
    )
    if hold.lost:
        raise _lost_error(hold)
