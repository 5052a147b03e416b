"""What the command lines of all commands have in common: options, targets, and their types."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, TypeVar

import click
from click.core import ParameterSource

from duplexd.duplexctl.settings import DEFAULT_GROUPS, DEFAULT_SOCKET, RUN_DIRECTORY, Settings
from duplexd.limits import SOCKET_PATH_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

    F = TypeVar("F", bound=Callable[..., object])

_SECONDS_MAX = 1_000_000.0  # eleven days: what any timer can hold


def complete_file(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Leaves it to the shell, which knows files best."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


class Seconds(click.ParamType[object, float]):
    """A time that can be waited.

    Above 0 or from `minimum` on, up to `maximum` seconds; not `nan`.
    """

    name = "seconds"

    def __init__(self, minimum: float = 0.0, maximum: float = _SECONDS_MAX) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = float(str(value))
        except ValueError:
            seconds = math.nan
        if not (self.minimum <= seconds <= self.maximum and seconds > 0.0):
            least = f"at least {self.minimum:g}" if self.minimum else "above 0"
            self.fail(
                f"{value!r} is not a valid time; expected a number of seconds, {least}, at most"
                f" {self.maximum:,g}",
                param,
                ctx,
            )
        return seconds


class Name(click.ParamType[object, str]):
    """What a controller may know something by: UTF-8 text, or no request could name it."""

    name = "text"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        text = str(value)
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.fail(f"{os.fsencode(text)!r} is not UTF-8 text", param, ctx)
        return text


class SocketName(click.ParamType[object, str]):
    """A path that a Unix socket can have."""

    name = "path"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return complete_file(ctx, param, incomplete)

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        path = os.path.abspath(str(value))
        if not value or len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
            self.fail(
                f"{value!r} is not a valid socket path; expected one that has, as an absolute path,"
                f" at most {SOCKET_PATH_BYTES_MAX} bytes",
                param,
                ctx,
            )
        return path


def _timeout(context: click.Context, _parameter: click.Parameter, value: float | None) -> None:
    if value is not None:
        context.ensure_object(Settings).timeout_s = value


def _json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Settings).json = True


def _groups(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        settings = context.ensure_object(Settings)
        settings.groups = value
        settings.groups_source = context.get_parameter_source(parameter.name or "")


def _socket(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    settings = context.ensure_object(Settings)
    source = context.get_parameter_source(parameter.name or "")
    if source is ParameterSource.ENVIRONMENT and settings.socket_source is not None:
        return  # --controller names another one; click comes to the environment last
    _name_once(context, "--socket", source)
    settings.socket = value
    settings.socket_source = source


def _controller(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    if "/" in value or value in {"", ".", ".."}:
        raise click.BadParameter(f"{value!r} is not the name of a controller", context, parameter)
    settings = context.ensure_object(Settings)
    source = context.get_parameter_source(parameter.name or "")
    _name_once(context, "--controller", source)
    settings.socket = os.path.join(settings.run_directory, value, "control.sock")
    settings.socket_source = source


def _name_once(context: click.Context, option: str, source: ParameterSource | None) -> None:
    """Raises UsageError if the daemon was named by the other option, too: one of the two commands
    that this could be is for the wrong daemon.
    """
    if source is not ParameterSource.COMMANDLINE:
        return
    settings = context.ensure_object(Settings)
    if settings.named_by not in {"", option}:
        raise click.UsageError("--controller and --socket both name the daemon; give one", context)
    settings.named_by = option


def _quiet(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Settings).quiet = True


def common(top: bool = False) -> Callable[[F], F]:
    """The options that every command has.

    Only at the top is the environment looked at, or it would win over what is said there.
    """

    def decorate(function: F) -> F:
        for option in (
            click.option(
                "--timeout",
                type=Seconds(),
                metavar="SECONDS",
                callback=_timeout,
                help="how long the daemon may be silent (exit code 8); for a group, how long the"
                " command may take in all",
                expose_value=False,
                is_eager=True,
            ),
            click.option(
                "--json",
                is_flag=True,
                callback=_json,
                expose_value=False,
                is_eager=True,
                help="write JSON",
            ),
            click.option(
                "--quiet",
                "-q",
                is_flag=True,
                callback=_quiet,
                expose_value=False,
                is_eager=True,
                help="write no answer, unless it is JSON: the exit code says it",
            ),
            click.option(
                "--controller",
                metavar="NAME",
                callback=_controller,
                help=f"the daemon with its socket in {RUN_DIRECTORY}/NAME/",
                expose_value=False,
                is_eager=True,
            ),
            click.option(
                "--groups",
                metavar="FILE",
                shell_complete=complete_file,
                callback=_groups,
                envvar="DUPLEXD_GROUPS" if top else None,
                help="groups of several controllers (DUPLEXD_GROUPS, else"
                f" {DEFAULT_GROUPS} if there is one)",
                expose_value=False,
                is_eager=True,
            ),
            click.option(
                "--socket",
                type=SocketName(),
                metavar="PATH",
                callback=_socket,
                envvar="DUPLEXD_SOCKET" if top else None,
                help=f"the daemon's control socket (DUPLEXD_SOCKET, else {DEFAULT_SOCKET}, else the"
                f" only one of {RUN_DIRECTORY}/NAME/)",
                expose_value=False,
                is_eager=True,
            ),
        ):
            function = option(function)
        return function

    return decorate


def _complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from duplexd.duplexctl.known_names import targets_like

    return targets_like(context.find_object(Settings) or Settings(), incomplete)


def complete_group(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    """Names of groups of the groups file."""
    from duplexd.duplexctl.known_names import groups_like

    return groups_like(context.find_object(Settings) or Settings(), incomplete)


def targets(required: bool = True, more: str = "") -> Callable[[F], F]:
    """The argument TARGET...; `more` is what usage shows after it, for the last of the names."""

    def once(
        _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
    ) -> tuple[str, ...]:
        return tuple(dict.fromkeys(values))

    return click.argument(
        "targets",
        type=Name(),
        nargs=-1,
        required=required,
        metavar=f"TARGET... {more}".rstrip() if required else "[TARGET...]",
        shell_complete=_complete,
        callback=once,
    )


def target_of(metavar: str) -> Callable[[F], F]:
    """One argument that begins with a target."""
    return click.argument("target", type=Name(), metavar=metavar, shell_complete=_complete)


class WithCommand(click.Command):
    """A command that takes `-- CMD...` after its arguments; CMD is in `Context.meta[KEY]`."""

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
