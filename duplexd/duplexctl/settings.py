"""The options that every command has, where a target is looked for, and what was written so far."""

from __future__ import annotations

import json
import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from click.core import ParameterSource

from duplexd.duplexctl.interrupts import Interrupts
from duplexd.duplexctl.output import OutputError, put
from duplexd.errors import (
    ConfigurationError,
    DuplexdError,
    NotFoundError,
    TimedOutError,
    UnreachableError,
    UsageError,
)
from duplexd.limits import ClientLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from duplexd.json_object import Json

RUN_DIRECTORY = "/run/duplexd"  # where daemons have their sockets: here, or by name below it
DEFAULT_SOCKET = f"{RUN_DIRECTORY}/control.sock"
DEFAULT_GROUPS = "/etc/duplexd/groups.toml"


class StoppedError(Exception):
    """A signal ended the command, and all that it held is released.

    `left`: what it leaves behind nevertheless, and what to do about it.
    """

    def __init__(self, number: int, left: str = "") -> None:
        name = signal.Signals(number).name
        super().__init__(f"interrupted by {name}" + (f"; {left}" if left else ""))
        self.number = number
        self.left = left
        self.exit_code = 128 + number


class Settings:
    """The options that every command has, from before or after its name."""

    def __init__(
        self, limits: ClientLimits | None = None, run_directory: str = RUN_DIRECTORY
    ) -> None:
        self.run_directory = run_directory
        self.limits = limits or ClientLimits()
        self.socket = DEFAULT_SOCKET
        self.socket_source: ParameterSource | None = None  # None: it was not named
        self.named_by = ""  # the option on the command line that named it
        self.groups = DEFAULT_GROUPS
        self.groups_source: ParameterSource | None = None
        self.json = False
        self.quiet = False
        self.timeout_s: float | None = None
        self.wrote = False  # anything of what was asked for
        self.answered = False  # all of it
        # why the answer is not there, though the command went on
        self.unwritten: OutputError | None = None
        self.done = ""  # what the command has changed, if its answer is not there to say it
        self.silent: tuple[str, ...] = ()  # controllers that did not answer
        self.asked_groups = False  # the controllers of the groups file, not the daemon of `socket`
        self.not_in_groups: tuple[str, ...] = ()  # targets that the groups file does not have
        self.begin: Callable[[], object] | None = None  # to be called when the command is loaded
        # what begins them leaves their end to `cli.run`, after the last word
        self.interrupts = Interrupts()

    # --------------------------------------------------------------------------------- writing

    def show(self, value: Json, text: str) -> None:
        """The object with --json, else the text. Raises OutputError.

        There may be more of them, and a problem as the last one.
        """
        self.wrote = True
        if self.json or not self.quiet:
            put(json.dumps(value) if self.json else text)

    def answer(self, value: Json, text: str, done: str = "") -> None:
        """The same for the whole answer, or its last line: with --json no other object follows."""
        with self.answering(done):
            self.show(value, text)

    @contextmanager
    def answering(self, done: str = "") -> Iterator[None]:
        """Within, the whole answer is written.

        A command does not fail half-way because that fails: `cli.run` says so at its end, and what
        is `done`.
        """
        try:
            yield
        except OutputError as error:
            self.unwritten, self.done = error, done.partition("\n")[0]
        self.answered = True

    # --------------------------------------------------------------------------------- targets

    @property
    def has_groups(self) -> bool:
        """Whether there is a groups file to look into: the one that was named, or the default one.

        Not if a socket was named beside the command. Raises UsageError if both were.
        """
        named = self.groups_source is ParameterSource.COMMANDLINE
        if self.socket_source is ParameterSource.COMMANDLINE:
            if named:
                raise UsageError(
                    f"--groups {self.groups} names controllers, --socket and --controller one"
                    " daemon; leave one of them out"
                )
            return False
        return self.groups_source is not None or os.path.exists(self.groups)

    def of_groups(self, targets: Sequence[str]) -> bool:
        """Whether `targets` are of the groups file; False: of the daemon behind `socket`.

        Raises UsageError if they are of both.
        """
        if not self.has_groups:
            return False
        if not targets:
            return self.socket_source is None or self.groups_source is ParameterSource.COMMANDLINE
        groups = self.group_names()
        known = [target for target in targets if target in groups or ":" in target]
        if self.groups_source is ParameterSource.COMMANDLINE:
            return True  # a name that it does not have is a mistake, not a volume of this machine
        if known and len(known) < len(targets):
            others = " ".join(target for target in targets if target not in known)
            raise UsageError(
                f"{' '.join(known)}: of the groups file, but {others} is not; name volumes there as"
                " controller:volume"
            )
        if not known:
            self.not_in_groups = tuple(targets)
        return bool(known)

    def find_daemon(self) -> None:
        """Choose the daemon of this machine, if none was named. Raises UsageError if there are
        several: a command for one must not reach another.
        """
        if self.groups_source is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"--groups {self.groups}: this command asks one daemon; name it with --socket PATH"
                " or --controller NAME"
            )
        if self.socket_source is not None or os.path.exists(self.socket):
            return
        from glob import glob

        found = sorted(glob(f"{self.run_directory}/*/control.sock"))
        if len(found) == 1:
            self.socket = found[0]
        elif found and self.not_in_groups:
            raise NotFoundError(
                f"{self._not_a_group()}; if it is a volume of this machine, name its daemon with"
                " --controller NAME or --socket PATH: there are several"
            )
        elif found:
            names = ", ".join(os.path.basename(os.path.dirname(path)) for path in found)
            raise UsageError(
                f"several daemons have sockets below {self.run_directory}: {names}; name one with"
                " --controller NAME or --socket PATH, or set DUPLEXD_SOCKET"
            )

    def group_is_meant(self, targets: Sequence[str]) -> bool:
        """As `of_groups`, for what only groups of the file can do.

        A name that the file does not have is a mistake then.
        """
        meant = self.of_groups(targets) or bool(self.not_in_groups)
        self.not_in_groups = ()
        return meant

    def explained(self, error: DuplexdError) -> DuplexdError:
        """With what else the reader needs: of --timeout, silent daemons, and the groups file."""
        given_up = isinstance(error, TimedOutError) and "allow" in str(error)
        if self.asked_groups and self.silent and (given_up or isinstance(error, UnreachableError)):
            return type(error)(f"{error}; {self._remedy()}")
        if isinstance(error, TimedOutError) and not given_up:
            return TimedOutError(f"{error}; {self._remedy()}, or allow more with --timeout")
        if not self.not_in_groups or not isinstance(error, NotFoundError | UnreachableError):
            return error
        nobody = self.groups_source and not self.socket_source and not os.path.exists(self.socket)
        if isinstance(error, UnreachableError) and nobody:
            # nobody named a daemon, and there is none: the groups file is all there is
            missing = self._not_a_group()
            return NotFoundError(f"{missing}; if it is a volume of this machine: {error}")
        return type(error)(f"{error}; {self._not_a_group(' either')}")

    def _not_a_group(self, either: str = "") -> str:
        """That the groups file has no such group, with one that may have been meant."""
        from difflib import get_close_matches

        close = [
            name
            for target in self.not_in_groups
            for name in get_close_matches(target, self.group_names(), 1, 0.5)
        ]
        hint = f"; did you mean {close[0]!r}?" if close else ""
        missing = f"{self.groups} has no group {' '.join(map(repr, self.not_in_groups))}"
        return f"{missing}{either}{hint}"

    def _remedy(self) -> str:
        """What to do about a daemon that is silent."""
        from duplexd.client.silence import remedy

        if not self.asked_groups:
            return remedy(self.socket)
        sockets = [(name, self.socket_of(name)) for name in self.silent]
        found = [f"{name}: {remedy(path)}" for name, path in sockets if os.path.exists(path)]
        return "; ".join(found) or "see its log"

    def socket_of(self, controller: str) -> str:
        """Where a controller of the groups file answers on this machine; empty if it does not."""
        with suppress(DuplexdError):
            entry = self.groups_table("controllers").get(controller) if self.has_groups else None
            if isinstance(entry, dict) and isinstance(entry.get("socket"), str):
                directory = os.path.dirname(os.path.abspath(self.groups))
                return os.path.join(directory, entry["socket"])
        return ""

    def group_names(self) -> list[str]:
        """The groups of the groups file, the rest unchecked. Raises ConfigurationError."""
        return list(self.groups_table("groups"))

    def groups_table(self, name: str) -> Json:
        """One of the two tables of the groups file, unchecked. Raises ConfigurationError."""
        import tomllib

        from duplexd.config.text import decode

        try:
            with open(self.groups, "rb") as file:
                table = tomllib.loads(decode(file.read(), self.groups)).get(name, {})
        except OSError as error:
            raise ConfigurationError(
                f"{self.groups}: cannot be read: {error.strerror}; name another with --groups FILE,"
                " or a daemon with --socket PATH"
            ) from None
        except (ValueError, RecursionError) as error:
            why = str(error) or "nested too deeply"
            raise ConfigurationError(f"{self.groups}: not TOML: {why}") from None
        return table if isinstance(table, dict) else {}
