"""duplexctl: the commands. Exit codes are those of errors.py; every command has --json, --socket and --timeout."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

import click

import duplexd
from duplexd.ctl import render
from duplexd.ctl.client import Client
from duplexd.errors import DuplexdError, LeaseLostError
from duplexd.limits import HOLD_SECONDS_DEFAULT, HOLD_SECONDS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    Json = dict[str, Any]
    F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_SOCKET = "/run/duplexd/control.sock"
SHORT_TIMEOUT_S = 30.0  # of commands that are quick; the others wait until told otherwise
COMPLETION_TIMEOUT_S = 0.5
EXIT_INTERRUPTED = 130


class Settings:
    """The options that every command has, from before or after its name."""

    def __init__(self) -> None:
        self.socket = DEFAULT_SOCKET
        self.json = False
        self.timeout_s: float | None = None

    def client(self, default_timeout_s: float | None = SHORT_TIMEOUT_S) -> Client:
        return Client(self.socket, self.timeout_s or default_timeout_s)

    def show(self, value: Json, text: str) -> None:
        """The object with --json, else the text."""
        click.echo(json.dumps(value) if self.json else text)


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value is not None and value is not False:
            setattr(context.ensure_object(Settings), name, value)

    return callback


def common(top: bool = False) -> Callable[[F], F]:
    """The options that every command has. Only at the top is the environment looked at, or it would win over what is said there."""

    def decorate(function: F) -> F:
        number = click.FloatRange(min=0.0, min_open=True)
        for option in (
            click.option("--timeout", type=number, metavar="SECONDS", expose_value=False, callback=_set("timeout_s"), is_eager=True,
                         help="how long the daemon may keep silent (exit code 8)"),
            click.option("--json", is_flag=True, expose_value=False, callback=_set("json"), is_eager=True, help="write JSON"),
            click.option("--socket", metavar="PATH", expose_value=False, callback=_set("socket"), is_eager=True,
                         envvar="DUPLEXD_SOCKET" if top else None, help=f"the daemon's control socket (DUPLEXD_SOCKET, else {DEFAULT_SOCKET})"),
        ):  # fmt: skip
            function = option(function)
        return function

    return decorate


def complete_target(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of volumes and groups, asked of the daemon; none if it does not answer."""
    settings = context.find_object(Settings) or Settings()
    try:
        status = Client(settings.socket, COMPLETION_TIMEOUT_S).call("GET", "/v1/status")
    except DuplexdError:
        return []
    return [item["name"] for item in status["groups"] + status["volumes"] if item["name"].startswith(incomplete)]


def targets(required: bool = True) -> Callable[[F], F]:
    return click.argument(
        "targets", nargs=-1, required=required, metavar="TARGET..." if required else "[TARGET...]", shell_complete=complete_target
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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@common(top=True)
@click.version_option(duplexd.__version__, prog_name="duplexctl", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Command duplexd: a TARGET is a volume or a group."""
    context.ensure_object(Settings)


@cli.command()
@targets(required=False)
@click.option("--watch", is_flag=True, help="show it again and again, until interrupted")
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, metavar="SECONDS", help="with --watch")
@click.option("--all", "whole", is_flag=True, help="every volume, even if it takes more than a screen")
@common()
@click.pass_obj
def status(settings: Settings, targets: tuple[str, ...], watch: bool, interval: float, whole: bool) -> None:
    """State of the volumes, groups and holds."""
    client = settings.client()
    path = "/v1/status" + ("?" + urlencode([("target", target) for target in targets]) if targets else "")
    if watch:
        from duplexd.ctl.watch import watch_status

        watch_status(lambda: client.call("GET", path), interval, settings.json, whole)
        return
    answer = client.call("GET", path)
    if settings.json:
        click.echo(json.dumps(answer))
    else:
        render.show_status(answer, whole)


@cli.command(cls=WithCommand)
@click.option("--hold", "hold_s", type=click.FloatRange(0.0, HOLD_SECONDS_MAX, min_open=True), default=HOLD_SECONDS_DEFAULT,
              show_default=True, metavar="SECONDS", help=f"the hold ends by itself after this long, at most {HOLD_SECONDS_MAX:g}")  # fmt: skip
@targets()
@common()
@click.pass_context
def quiesce(context: click.Context, targets: tuple[str, ...], hold_s: float) -> None:
    """Hold writes while CMD runs, or until interrupted; reads go on, and no write fails.

    CMD finds the lease in DUPLEXD_LEASE. The exit code is CMD's, or 9 if the hold was lost before CMD ended.
    """
    from duplexd.ctl import hold

    settings = context.ensure_object(Settings)
    body = {"targets": list(targets), "hold_s": hold_s}
    command: list[str] = context.meta.get(WithCommand.KEY, [])
    if command:
        context.exit(hold.hold_while(settings.client(), body, command, lambda end: settings.show(end, "") if settings.json else None))

    def held(line: Json) -> None:
        lease = line["lease"]
        settings.show(line, f"lease {lease['id']}: {' '.join(targets)} held for {hold_s:g} s; ctrl-C releases")
        sys.stdout.flush()

    hold.hold_here(settings.client(), body, held, lambda end: settings.show(end, f"lease {end['lease']}: {end['reason']}"))


@cli.command()
@targets()
@click.option("--tag", default="", help="text to keep with the cut")
@click.option("--lease", help="the hold under which to cut; it ends with the cut")
@common()
@click.pass_obj
def suspend(settings: Settings, targets: tuple[str, ...], tag: str, lease: str | None) -> None:
    """Cut at one point: when it returns, the secondaries are durable and readable where they lie."""
    body = {"targets": list(targets), "tag": tag} | ({"lease": lease} if lease else {})
    result = settings.client(None).call("POST", "/v1/suspend", body)
    settings.show(result, render.suspended_text(result))
    if result["verdict"] != "consistent":
        raise LeaseLostError("the verdict is void: these secondaries are of no one moment; resync, and suspend again")


@cli.command()
@click.argument("lease")
@common()
@click.pass_obj
def release(settings: Settings, lease: str) -> None:
    """End a hold."""
    from duplexd.ctl import hold

    result = hold.release(settings.client(), lease)
    settings.show(result, f"lease {lease}: " + ("released" if result["released"] else "had ended already"))


@cli.command()
@targets()
@click.option("--wait", is_flag=True, help="return when all are DUPLEX; exit code 1 if one failed")
@common()
@click.pass_obj
def resync(settings: Settings, targets: tuple[str, ...], wait: bool) -> None:
    """Bring suspended secondaries back: copies only what changed."""
    body = {"targets": list(targets), "wait": wait}
    if not wait:
        result = settings.client().call("POST", "/v1/resync", body)
        settings.show(result, render.resync_text(result))
        return
    from duplexd.ctl.watch import watch_resync

    with settings.client(None).stream("POST", "/v1/resync", body) as lines:
        done = watch_resync(lines, settings.json)
    if not done["ok"]:
        names = " ".join(row["name"] for row in done["volumes"] if row["state"] != "DUPLEX")
        raise DuplexdError(f"not DUPLEX: {names}; `duplexctl status {names}` says why")


@cli.command()
@click.option("--follow", is_flag=True, help="go on with changes as they happen, until interrupted")
@common()
@click.pass_obj
def events(settings: Settings, follow: bool) -> None:
    """The present state; with --follow, then every change of state."""
    with settings.client(None if follow else SHORT_TIMEOUT_S).stream("GET", f"/v1/events?follow={'true' if follow else 'false'}") as lines:
        for line in lines:
            settings.show(line, render.event_text(line))
            sys.stdout.flush()
    if follow:
        raise DuplexdError("the daemon ended the stream of events: it stopped, or this reader was too slow; run the command again")


@cli.command()
@targets()
@common()
@click.pass_obj
def verify(settings: Settings, targets: tuple[str, ...]) -> None:
    """Compare the legs: exit code 1 if any differ."""
    from duplexd.ctl.watch import watch_verify

    with settings.client(None).stream("POST", "/v1/verify", {"targets": list(targets), "progress": True}) as lines:
        result = watch_verify(lines)
    settings.show(result, "\n".join(render.verified_text(row) for row in result["volumes"]))
    if not result["equal"]:
        raise DuplexdError("the legs differ; suspend and resync does not mend this: find out which leg is right first")


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common()
@click.pass_obj
def completion(settings: Settings, shell: str) -> None:
    """Print a script for the shell: eval "$(duplexctl completion bash)"."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    source = found(cli, {}, "duplexctl", "_DUPLEXCTL_COMPLETE").source()
    settings.show({"shell": shell, "script": source}, source)


def _fail(error: DuplexdError, as_json: bool) -> int:
    if as_json:
        problem = {"title": error.title, "status": error.http_status, "detail": str(error), "exit_code": error.exit_code}
        click.echo(json.dumps({"type": "urn:duplexd:problem:" + error.title.replace(" ", "-")} | problem))
    click.echo(f"duplexctl: {error}", err=True)
    return error.exit_code


def run(arguments: list[str] | None = None) -> int:
    """Run a command line; its exit code."""
    settings = Settings()
    try:
        result = cli.main(arguments, "duplexctl", standalone_mode=False, obj=settings)
    except DuplexdError as error:
        return _fail(error, settings.json)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    return result if isinstance(result, int) else 0


def main() -> None:
    """Run the process's command line and exit."""
    try:
        code = run()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stdout = None
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
