"""duplexctl: the commands. Exit codes are those of errors.py; every command has --json, --socket, --groups and --timeout.

A target is of the daemon behind the socket, or of the groups file, whose commands are in `ctl/groups.py`: they are loaded only when needed.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

import duplexd
from duplexd.duplexctl import render
from duplexd.duplexctl.entry import wants_json
from duplexd.duplexctl.options import (
    SHORT_TIMEOUT_S,
    Name,
    Seconds,
    Settings,
    StoppedError,
    WithCommand,
    common,
    targets,
)
from duplexd.duplexctl.output import OutputError, complain, put
from duplexd.errors import DuplexdError, LeaseLostError, NotFoundError, UnreachableError, UsageError
from duplexd.limits import HOLD_SECONDS_DEFAULT, HOLD_SECONDS_MAX
from duplexd.runtime import descriptors

if TYPE_CHECKING:
    from collections.abc import Callable

    Json = dict[str, Any]

HTTP_INTERRUPTED = 499  # what no server says: the client went away
_STDOUT = 1
_HOLD = Seconds(maximum=HOLD_SECONDS_MAX)


class Commands(click.Group):
    """The commands below, and those of other modules, which are imported when they are named."""

    ELSEWHERE = {"canary": "duplexd.duplexctl.canary", "verify-cut": "duplexd.duplexctl.proof"}  # noqa: RUF012

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(
            import_module(self.ELSEWHERE[cmd_name]), cmd_name.replace("-", "_")
        )
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@common(top=True)
@click.version_option(duplexd.__version__, prog_name="duplexctl", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Command duplexd: a TARGET is a volume or a group, of one daemon or, by the groups file, of several."""
    context.ensure_object(Settings)


@cli.command()
@targets(required=False)
@click.option("--watch", is_flag=True, help="show it again and again, until interrupted")
@click.option("--interval", type=Seconds(0.1), default=1.0, metavar="SECONDS", help="with --watch")
@click.option(
    "--all", "whole", is_flag=True, help="every volume, even if it takes more than a screen"
)
@common()
@click.pass_obj
def status(
    settings: Settings, targets: tuple[str, ...], watch: bool, interval: float, whole: bool
) -> None:
    """State of the volumes, groups and holds."""
    if settings.of_groups(targets):
        from duplexd.duplexctl import groups

        groups.status(settings, targets, interval if watch else None, whole)
        return
    client = settings.client()
    path = "/v1/status" + (
        "?" + urlencode([("target", target) for target in targets]) if targets else ""
    )
    if watch:
        from duplexd.duplexctl.watch import watch_status

        settings.wrote = True  # it ends with an interrupt, which is no problem
        watch_status(lambda: client.call("GET", path), interval, settings.json, whole)
        return
    answer = client.call("GET", path)
    if settings.json:
        settings.answer(answer, "")
        return
    with settings.answering():
        render.show_status(answer, whole)


@cli.command(cls=WithCommand, short_help="Hold writes while CMD runs, or until interrupted.")
@click.option("--hold", "hold_s", type=_HOLD, metavar="SECONDS",
              help=f"the hold ends by itself after this long, at most {HOLD_SECONDS_MAX:g}; else {HOLD_SECONDS_DEFAULT:g}, or the group's hold_max")  # fmt: skip
@targets()
@common()
@click.pass_context
def quiesce(context: click.Context, targets: tuple[str, ...], hold_s: float | None) -> None:
    """Hold writes while CMD runs, or until interrupted; reads go on, and no write fails.

    CMD finds the lease in DUPLEXD_LEASE. The exit code is CMD's, or 9 if the hold was lost before CMD ended.
    """
    settings = context.ensure_object(Settings)
    command: list[str] = context.meta.get(WithCommand.KEY, [])
    if not command and _STDOUT in descriptors.opened:
        raise DuplexdError(
            "nothing was held: the lease could not be told, for stdout is closed; open it, or name a command after --"
        )
    if settings.of_groups(targets):
        from duplexd.duplexctl import group_hold

        context.exit(group_hold.quiesce(settings, targets, hold_s, command))
    from duplexd.duplexctl import hold

    hold_s = hold_s or HOLD_SECONDS_DEFAULT
    body = {"targets": list(targets), "hold_s": hold_s}
    if command:
        context.exit(
            hold.hold_while(
                settings.client(),
                body,
                command,
                lambda end: settings.answer(end, "") if settings.json else None,
            )
        )

    def held(line: Json) -> None:
        lease = line["lease"]
        settings.show(
            line, f"lease {lease['id']}: {' '.join(targets)} held for {hold_s:g} s; ctrl-C releases"
        )

    hold.hold_here(
        settings.client(),
        body,
        held,
        lambda end: settings.answer(end, f"lease {end['lease']}: {end['reason']}"),
    )


@cli.command(short_help="Cut at one point; the secondaries stand there, durably.")
@targets()
@click.option("--tag", default="", help="text to keep with the cut")
@click.option(
    "--lease",
    type=Name(),
    metavar="LEASE",
    help="the hold under which to cut; it ends with the cut. Of one controller only",
)
@click.option(
    "--hold-max",
    "hold_max_s",
    type=_HOLD,
    metavar="SECONDS",
    help="how long writes of a group may wait, instead of its hold_max",
)
@click.option(
    "--certificate",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="write a certificate of the cut, for verify-cut",
)
@common()
@click.pass_obj
def suspend(
    settings: Settings,
    targets: tuple[str, ...],
    tag: str,
    lease: str | None,
    hold_max_s: float | None,
    certificate: str | None,
) -> None:
    """Cut at one point: when it returns, the secondaries are durable and readable where they lie."""
    of_groups = settings.of_groups(targets)
    if lease == "":
        raise UsageError(
            '--lease is empty; is "$DUPLEXD_LEASE" set? It is where `quiesce -- CMD` runs CMD. Without --lease nothing has to be held'
        )
    if lease and (of_groups or certificate):
        raise UsageError(
            "--lease is for targets of one controller, named at its socket (--socket PATH), and without --certificate; what the groups file names is held and cut in one step"
        )
    if of_groups or certificate:
        from duplexd.duplexctl import group_suspend

        group_suspend.suspend(settings, targets, tag, hold_max_s, certificate, of_groups)
        return
    if hold_max_s is not None:
        raise UsageError(
            "--hold-max is for groups of several controllers; one controller needs no hold to cut"
        )
    body = {"targets": list(targets), "tag": tag} | ({"lease": lease} if lease else {})

    def stop(number: int) -> None:
        settings.interrupts.act = None  # a second one is not to end it before this is told
        settings.interrupts.came.append(number)
        named = " ".join(targets)
        raise StoppedError(
            number, f"{named} may be suspended all the same: `duplexctl status {named}`"
        )

    settings.interrupts.begin(stop, ignored=False)
    try:
        result = settings.client(None).call("POST", "/v1/suspend", body)
    finally:
        settings.interrupts.act = None  # from here on there is an answer, or an error, to write
    text = render.suspended_text(result)
    settings.answer(result, text, done=text)
    if result["verdict"] != "consistent":
        why = f" ({result['why']})" if result.get("why") else ""
        raise LeaseLostError(
            f"the verdict is void: these secondaries are of no one moment{why}; resync, and suspend again"
        )


@cli.command()
@click.argument("lease", type=Name())
@common()
@click.pass_obj
def release(settings: Settings, lease: str) -> None:
    """End a hold: a lease, or what is held for cuts of a group."""
    from duplexd.duplexctl import hold

    if settings.has_groups and settings.of_groups([lease]):
        from duplexd.duplexctl import groups

        groups.release(settings, lease)
        return
    settings.not_in_groups = ()  # a lease is no target
    try:
        result = hold.release(settings.client(), lease)
    except (NotFoundError, UnreachableError):
        if not settings.has_groups:
            raise
        from duplexd.duplexctl import groups

        groups.release(settings, lease)  # DUPLEXD_LEASE of a group's hold is the id of its cut
        return
    text = f"lease {lease}: " + ("released" if result["released"] else "had ended already")
    settings.answer(result, text, done=text)


@cli.command()
@targets()
@click.option("--wait", is_flag=True, help="return when all are DUPLEX; exit code 1 if one failed")
@common()
@click.pass_obj
def resync(settings: Settings, targets: tuple[str, ...], wait: bool) -> None:
    """Bring suspended secondaries back: copies only what changed."""
    if settings.of_groups(targets):
        from duplexd.duplexctl import groups

        groups.resync(settings, targets, wait)
        return
    body = {"targets": list(targets), "wait": wait}
    if not wait:
        result = settings.client().call("POST", "/v1/resync", body)
        settings.answer(result, render.resync_text(result), done="the resync has begun")
        return
    from duplexd.duplexctl.watch import watch_resync

    settings.done = "the resync has begun"
    with settings.client(None).stream("POST", "/v1/resync", body) as lines:
        done = watch_resync(lines, settings.json)
    settings.answered = True  # with its last line
    render.check_resynced(done)


@cli.command(short_help="The present state of one daemon; --follow: every change.")
@click.option("--follow", is_flag=True, help="go on with changes as they happen, until interrupted")
@common()
@click.pass_obj
def events(settings: Settings, follow: bool) -> None:
    """The present state of one daemon; with --follow, then every change of state."""
    with settings.client(None if follow else SHORT_TIMEOUT_S).stream(
        "GET", f"/v1/events?follow={'true' if follow else 'false'}"
    ) as lines:
        for line in lines:
            settings.show(line, render.event_text(line))
    if follow:
        raise DuplexdError(
            "the daemon ended the stream of events: it stopped, or this reader was too slow; run the command again"
        )


@cli.command()
@targets()
@common()
@click.pass_obj
def verify(settings: Settings, targets: tuple[str, ...]) -> None:
    """Compare the legs: exit code 1 if any differ."""
    if settings.of_groups(targets):
        from duplexd.duplexctl import groups

        groups.verify(settings, targets)
        return
    from duplexd.duplexctl.watch import watch_verify

    with settings.client(None).stream(
        "POST", "/v1/verify", {"targets": list(targets), "progress": True}
    ) as lines:
        result = watch_verify(lines)
    settings.answer(result, render.verified_texts(result))
    render.check_verified(result)


@cli.command(short_help="Find out what became of cuts that were left undecided.")
@targets()
@common()
@click.pass_obj
def settle(settings: Settings, targets: tuple[str, ...]) -> None:
    """Find out what became of a group's cuts that were left undecided, and tell all members."""
    if not settings.group_is_meant(targets):
        raise UsageError(
            "cuts of one controller are always decided; name a group of the groups file (--groups FILE)"
        )
    from duplexd.duplexctl import groups

    groups.settle(settings, targets)


@cli.command()
@targets(required=False)
@common()
@click.pass_obj
def cuts(settings: Settings, targets: tuple[str, ...]) -> None:
    """The cuts that are remembered, with their verdicts."""
    from duplexd.duplexctl import groups

    groups.cuts(settings, targets, settings.of_groups(targets))


@cli.command(short_help="Print a script for the shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common()
@click.pass_obj
def completion(settings: Settings, shell: str) -> None:
    """Print a script for the shell: eval "$(duplexctl completion bash)"."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    source = found(cli, {}, "duplexctl", "_DUPLEXCTL_COMPLETE").source()
    if shell == "bash":
        source = (
            'COMP_WORDBREAKS="${COMP_WORDBREAKS//:}"  # controller:volume is one word\n' + source
        )
    settings.show({"shell": shell, "script": source}, source)


def _problem(title: str, http_status: int, detail: str, exit_code: int) -> None:
    """Write it to stdout, if that can be."""
    problem = {"title": title, "status": http_status, "detail": detail, "exit_code": exit_code}
    with suppress(OutputError):
        put(json.dumps({"type": "urn:duplexd:problem:" + title.replace(" ", "-")} | problem))


def _interrupted(
    error: Exception | KeyboardInterrupt, settings: Settings, arguments: list[str]
) -> int:
    stopped = error if isinstance(error, StoppedError) else StoppedError(signal.SIGINT)
    if wants_json(arguments) and not settings.wrote:  # perhaps they were not understood yet
        _problem("interrupted", HTTP_INTERRUPTED, str(stopped), stopped.exit_code)
    if stopped.left:
        complain(str(stopped))
    return stopped.exit_code


def _failed(error: DuplexdError, settings: Settings) -> int:
    if settings.json and not settings.answered:
        _problem(error.title, error.http_status, str(error), error.exit_code)
    complain(str(error))
    return error.exit_code


def _attempt(settings: Settings, arguments: list[str], begin: Callable[[], object] | None) -> int:
    try:
        if begin is not None:
            begin()
        result = cli.main(arguments, "duplexctl", standalone_mode=False, obj=settings)
    except OutputError as error:
        settings.unwritten = error
        return error.exit_code
    except DuplexdError as error:
        return _failed(settings.explained(error), settings)
    except click.ClickException as error:
        if wants_json(arguments):
            _problem(
                UsageError.title, UsageError.http_status, error.format_message(), error.exit_code
            )
        with suppress(OSError):
            error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort, StoppedError) as error:
        return _interrupted(error, settings, arguments)
    except OSError as error:  # of what click writes by itself, as help
        settings.unwritten = OutputError(error)
        return OutputError.exit_code
    return result if isinstance(result, int) else 0


def run(arguments: list[str] | None = None, begin: Callable[[], object] | None = None) -> int:
    """Run a command line; its exit code. With --json there is one answer on stdout, or a problem, which may end a stream.

    Where the answer could not be written stderr says so, and what is done all the same; another failure keeps its exit code.
    `begin` is called where a KeyboardInterrupt is caught from then on.
    """
    settings = Settings()
    try:
        code = _attempt(settings, sys.argv[1:] if arguments is None else arguments, begin)
        if settings.unwritten is not None:
            if settings.done or not settings.unwritten.unread:
                complain(
                    f"{settings.unwritten}"
                    + (f"; this is done: {settings.done}" if settings.done else "")
                )
            code = code or settings.unwritten.exit_code
        if settings.interrupts.came and not code:
            stopped = StoppedError(settings.interrupts.came[0], "all was done before that")
            complain(str(stopped))
            code = stopped.exit_code
        return code
    finally:
        settings.interrupts.end()


def main(begin: Callable[[], object] | None = None) -> None:
    """Run the process's command line and exit. `begin`: see `run`."""
    code = run(None, begin)
    try:
        sys.stdout.flush()
    except OSError:  # told already; the interpreter must not try again at its end
        sys.stdout = None
    sys.exit(code)


if __name__ == "__main__":
    main()
