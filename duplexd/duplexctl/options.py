"""What the commands of duplexctl have in common: options, targets, and where a target is looked for."""

from __future__ import annotations

import json
import math
import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

from duplexd.duplexctl.client import Client
from duplexd.duplexctl.interrupts import Interrupts
from duplexd.duplexctl.output import OutputError, put
from duplexd.errors import (
    ConfigurationError,
    DuplexdError,
    NotFoundError,
    UnreachableError,
    UsageError,
)
from duplexd.limits import SOCKET_PATH_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Json = dict[str, Any]
    F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_SOCKET = "/run/duplexd/control.sock"
DEFAULT_GROUPS = "/etc/duplexd/groups.toml"
SHORT_TIMEOUT_S = 30.0  # of commands that are quick; the others wait until told otherwise
COMPLETION_TIMEOUT_S = 0.5
_SECONDS_MAX = 1_000_000.0  # eleven days: more than that the socket's time-out can't hold
_COMMAND_LINE = click.core.ParameterSource.COMMANDLINE


class Seconds(click.ParamType[Any, float]):
    """A time that can be waited: above 0 or from `minimum` on, up to `maximum` seconds. `nan` is none."""

    name = "seconds"

    def __init__(self, minimum: float = 0.0, maximum: float = _SECONDS_MAX) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not (self.minimum <= seconds <= self.maximum and seconds > 0.0):
            least = f"from {self.minimum:g} on" if self.minimum else "above 0"
            self.fail(
                f"{value!r} is no time; write a number of seconds {least}, at most {self.maximum:,g}",
                param,
                ctx,
            )
        return seconds


class Name(click.ParamType[Any, str]):
    """What a controller may know something by: UTF-8 text, or no request could name it."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if any("\ud800" <= character <= "\udfff" for character in value):
            self.fail(f"{os.fsencode(value)!r} is not UTF-8 text", param, ctx)
        return str(value)


class SocketName(click.ParamType[Any, str]):
    """A path that a Unix socket can have."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = os.path.abspath(value)
        if not value or len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
            self.fail(
                f"{value!r} is no path of a socket; write one that has, as an absolute path, at most {SOCKET_PATH_BYTES_MAX} bytes",
                param,
                ctx,
            )
        return str(value)


class StoppedError(Exception):
    """A signal ended the command, and all that it held is let go. `left`: what it leaves behind all the same, and what to do about it."""

    def __init__(self, number: int, left: str = "") -> None:
        super().__init__(
            f"interrupted by {signal.Signals(number).name}" + (f"; {left}" if left else "")
        )
        self.number = number
        self.left = left
        self.exit_code = 128 + number


class Settings:
    """The options that every command has, from before or after its name."""

    def __init__(self) -> None:
        self.socket = DEFAULT_SOCKET
        self.socket_source: object = None  # where it was named; None if it was not
        self.groups = DEFAULT_GROUPS
        self.groups_source: object = None
        self.json = False
        self.timeout_s: float | None = None
        self.wrote = False  # anything of what was asked for
        self.answered = False  # all of it
        self.unwritten: OutputError | None = (
            None  # why the answer is not there, though the command went on
        )
        self.done = ""  # what the command has changed, if its answer is not there to tell it
        self.not_in_groups: tuple[str, ...] = ()  # targets that the groups file does not have
        self.interrupts = (
            Interrupts()
        )  # what begins them leaves their end to `run`, after the last word

    def client(self, default_timeout_s: float | None = SHORT_TIMEOUT_S) -> Client:
        return Client(self.socket, self.timeout_s or default_timeout_s)

    def show(self, value: Json, text: str) -> None:
        """The object with --json, else the text. There may be more of them, and a problem as the last one. Raises OutputError."""
        self.wrote = True
        put(json.dumps(value) if self.json else text)

    def answer(self, value: Json, text: str, done: str = "") -> None:
        """The same for what is the whole answer, or its last line: with --json, no other object follows."""
        with self.answering(done):
            self.show(value, text)

    @contextmanager
    def answering(self, done: str = "") -> Iterator[None]:
        """Within, the whole answer is written. A command does not fail half-way because that fails: `run` says so at its end, and what is `done`."""
        try:
            yield
        except OutputError as error:
            self.unwritten, self.done = error, done.partition("\n")[0]
        self.answered = True

    @property
    def has_groups(self) -> bool:
        """Whether there is a groups file to look into: one that was named, or the default one. Not if a socket was named beside the command."""
        if self.socket_source is _COMMAND_LINE:
            return False
        return self.groups_source is not None or os.path.exists(self.groups)

    def of_groups(self, targets: Sequence[str]) -> bool:
        """Whether `targets` are those of the groups file; False: of the daemon behind `socket`. Raises UsageError if they are of both."""
        if not self.has_groups:
            return False
        if not targets:
            return self.socket_source is None
        known = self._known(targets)
        if self.groups_source is _COMMAND_LINE:
            return True  # a name that it does not have is a mistake, not a volume of this machine
        if known and len(known) < len(targets):
            others = [target for target in targets if target not in known]
            raise UsageError(
                f"{' '.join(known)}: of the groups file, but {' '.join(others)} is not; name volumes there as controller:volume"
            )
        if not known:
            self.not_in_groups = tuple(targets)
        return bool(known)

    def explained(self, error: DuplexdError) -> DuplexdError:
        """With what the groups file says of targets that the daemon does not know. Where nobody named a daemon, and there is none, that is all."""
        if not self.not_in_groups or not isinstance(error, NotFoundError | UnreachableError):
            return error
        from difflib import get_close_matches

        close = [
            name
            for target in self.not_in_groups
            for name in get_close_matches(target, self.group_names(), 1, 0.5)
        ]
        hint = f"; did you mean {close[0]!r}?" if close else ""
        missing = f"{self.groups} has no group {' '.join(map(repr, self.not_in_groups))}"
        if (
            isinstance(error, UnreachableError)
            and self.groups_source
            and not self.socket_source
            and not os.path.exists(self.socket)
        ):
            return NotFoundError(f"{missing}{hint}; if it is a volume of this machine: {error}")
        return type(error)(f"{error}; {missing} either{hint}")

    def group_is_meant(self, targets: Sequence[str]) -> bool:
        """As `of_groups`, for what only groups of the file can do: a name that it does not have is a mistake."""
        meant = self.of_groups(targets) or bool(self.not_in_groups)
        self.not_in_groups = ()
        return meant

    def _known(self, targets: Sequence[str]) -> list[str]:
        groups = self.group_names()
        return [target for target in targets if target in groups or ":" in target]

    def group_names(self) -> list[str]:
        """The groups of the groups file, without a check of the rest of it. Raises ConfigurationError."""
        return list(self.groups_table("groups"))

    def groups_table(self, name: str) -> Json:
        """One of the two tables of the groups file, unchecked. Raises ConfigurationError."""
        import tomllib

        try:
            with open(self.groups, "rb") as file:
                table = tomllib.load(file).get(name, {})
        except OSError as error:
            raise ConfigurationError(
                f"{self.groups}: cannot be read: {error.strerror}; name another with --groups FILE, or a daemon with --socket PATH"
            ) from None
        except UnicodeDecodeError:
            raise ConfigurationError(
                f"{self.groups}: not UTF-8 text; save the file as UTF-8"
            ) from None
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(
                f"{self.groups}: not TOML: {str(error) or 'nested too deeply'}"
            ) from None
        return table if isinstance(table, dict) else {}


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None and value is not False:
            settings = context.ensure_object(Settings)
            setattr(settings, name, value)
            if hasattr(settings, f"{name}_source"):
                setattr(
                    settings, f"{name}_source", context.get_parameter_source(parameter.name or "")
                )

    return callback


def common(top: bool = False) -> Callable[[F], F]:
    """The options that every command has. Only at the top is the environment looked at, or it would win over what is said there."""

    def decorate(function: F) -> F:
        for option in (
            click.option("--timeout", type=Seconds(), metavar="SECONDS", expose_value=False, callback=_set("timeout_s"), is_eager=True,
                         help="how long the daemon may keep silent (exit code 8); for a group, how long it may take in all"),
            click.option("--json", is_flag=True, expose_value=False, callback=_set("json"), is_eager=True, help="write JSON"),
            click.option("--groups", metavar="FILE", expose_value=False, callback=_set("groups"), is_eager=True,
                         envvar="DUPLEXD_GROUPS" if top else None,
                         help=f"groups of several controllers (DUPLEXD_GROUPS, else {DEFAULT_GROUPS} if there is one)"),
            click.option("--socket", type=SocketName(), metavar="PATH", expose_value=False, callback=_set("socket"), is_eager=True,
                         envvar="DUPLEXD_SOCKET" if top else None, help=f"the daemon's control socket (DUPLEXD_SOCKET, else {DEFAULT_SOCKET})"),
        ):  # fmt: skip
            function = option(function)
        return function

    return decorate


def complete_target(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Names of groups of the groups file, and of volumes and groups, asked of the daemon; none if it does not answer."""
    settings = context.find_object(Settings) or Settings()
    controller, colon, _ = incomplete.partition(":")
    if colon:
        names = [f"{controller}:{name}" for name in _names_at(_socket_of(settings, controller))]
    else:
        names = [*complete_group(context, _parameter, incomplete), *_names_at(settings.socket)]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def complete_group(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Names of groups of the groups file."""
    settings = context.find_object(Settings) or Settings()
    with suppress(DuplexdError):  # this is not the moment to complain
        return (
            [name for name in settings.group_names() if name.startswith(incomplete)]
            if settings.has_groups
            else []
        )
    return []


def _socket_of(settings: Settings, controller: str) -> str:
    """Where a controller of the groups file answers on this machine; empty if it does not. Others are not asked: that takes too long."""
    with suppress(DuplexdError):
        entry = (
            settings.groups_table("controllers").get(controller) if settings.has_groups else None
        )
        if isinstance(entry, dict) and isinstance(entry.get("socket"), str):
            return os.path.join(os.path.dirname(os.path.abspath(settings.groups)), entry["socket"])
    return ""


def _names_at(path: str) -> list[str]:
    """What the daemon behind a socket has; nothing if it does not answer."""
    with suppress(DuplexdError):
        status = (
            Client(path, COMPLETION_TIMEOUT_S).call("GET", "/v1/status")
            if path
            else {"groups": [], "volumes": []}
        )
        return [item["name"] for item in status["groups"] + status["volumes"]]
    return []


def targets(required: bool = True) -> Callable[[F], F]:
    """The argument TARGET..."""

    def once(
        _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
    ) -> tuple[str, ...]:
        return tuple(dict.fromkeys(values))

    metavar = "TARGET..." if required else "[TARGET...]"
    return click.argument(
        "targets",
        type=Name(),
        nargs=-1,
        required=required,
        metavar=metavar,
        shell_complete=complete_target,
        callback=once,
    )


class WithCommand(click.Command):
    """A command after whose arguments `-- CMD...` may stand; CMD is in `Context.meta[KEY]`."""

    KEY = "duplexctl.command"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            place = args.index("--")
            args, ctx.meta[self.KEY] = args[:place], args[place + 1 :]
            if not ctx.meta[self.KEY] and not ctx.resilient_parsing:
                raise click.UsageError("a command to run is missing after --", ctx)
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- CMD...]"]
