"""duplexctl: which commands there are, and how their ends become exit codes and problems.

A command goes one way, whether its targets are of the daemon behind the socket or of the groups
file: command -> `runner.run` -> a method of `client.Client` -> a text of `texts` or the result as
JSON.

    status   client.status    views.StatusView     resync      client.resync     texts.resynced_text
    quiesce  client.quiesce   the lease            verify      client.verify     texts.verified_text
    suspend  client.suspend   texts.suspended_text settle      client.settle     texts.settled_text
    release  client.release   texts.released_text  cuts        client.cuts       texts.cuts_text
    events   client.events    texts.event_text     completion  client.status     names
    canary   client.links     canary.report_text   verify-cut  no client         proof
    swap     client.swap      texts.swapped_text   adopt       client.adopt      texts.adopted_text
    reload   client.reload    what changed         repair      client.repair     repaired_text
    health   client.health    wellness.text        top           looking_on.look  top.frame
    backup   backup.run       in backup            backups       no client        backups_text
    changes  client.changes   changed.changes_text
    points   client.points    points_text          release-reader  client.release_reader
    clone    clones.make      cloned_text          drop-clone      clones.drop
    clones   clones.show      clones_text          drill           drill.run, in backup
    rollback  client.rollback  rolled_back_text        restore     restore.run, in backup
    restart  client.restart   restarted_text
    mark      marks.make      marked_text

Commands are imported when they are named. Exit codes are those of errors.py.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

import click

import duplexd
from duplexd.duplexctl.arguments import wants_json
from duplexd.duplexctl.options import common
from duplexd.duplexctl.output import OutputError, complain, put
from duplexd.duplexctl.settings import Settings, StoppedError
from duplexd.errors import DuplexdError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.limits import ClientLimits

HTTP_INTERRUPTED = 499  # what no server says: the client went away
_MODULES = {
    "adopt": "takeover",
    "backup": "backup",
    "backups": "backup",
    "canary": "canary",
    "changes": "changed",
    "clone": "cloning",
    "clones": "cloning",
    "completion": "completion",
    "cuts": "looking",
    "drill": "drill",
    "drop-clone": "cloning",
    "events": "looking",
    "health": "wellness",
    "mark": "marking",
    "points": "reading_cuts",
    "quiesce": "hold",
    "release": "hold",
    "release-reader": "reading_cuts",
    "repair": "legs",
    "reload": "configuration",
    "restart": "in_place",
    "restore": "back_to_backup",
    "resync": "resync",
    "rollback": "back_to_cut",
    "settle": "resync",
    "status": "looking",
    "suspend": "suspend",
    "swap": "takeover",
    "top": "top.command",
    "verify": "looking",
    "verify-cut": "proof",
}


class Commands(click.Group):
    """The commands of the modules above."""

    def list_commands(self, _context: click.Context | None) -> list[str]:
        return sorted(_MODULES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _MODULES:
            return None
        module = import_module(f"duplexd.duplexctl.{_MODULES[name]}")
        command: click.Command = vars(module)[name.replace("-", "_")]
        settings = context.find_object(Settings)
        if settings is not None and settings.begin is not None:
            settings.begin()
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@common(top=True)
@click.version_option(duplexd.__version__, prog_name="duplexctl", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Command duplexd.

    A TARGET is a volume or a group, of one daemon or, by the groups file, of several.
    """
    context.ensure_object(Settings)


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


def _attempt(settings: Settings, arguments: list[str]) -> int:
    try:
        result = cli.main(arguments, "duplexctl", standalone_mode=False, obj=settings)
    except OutputError as error:
        settings.unwritten = error
        return error.exit_code
    except DuplexdError as error:
        return _failed(settings.explained(error), settings)
    except click.ClickException as error:
        if wants_json(arguments):
            text = error.format_message()
            _problem(UsageError.title, UsageError.http_status, text, error.exit_code)
        with suppress(OSError):
            error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort, StoppedError) as error:
        return _interrupted(error, settings, arguments)
    except OSError as error:  # of what click writes by itself, as help
        settings.unwritten = OutputError.of(error)
        return OutputError.exit_code
    return result if isinstance(result, int) else 0


def run(
    arguments: list[str] | None = None,
    begin: Callable[[], object] | None = None,
    limits: ClientLimits | None = None,
) -> int:
    """Run a command line; its exit code.

    With --json there is one answer on stdout, or a problem, which may end a stream. Where the
    answer could not be written stderr says so, and what is done nevertheless; another failure keeps
    its exit code. `begin` is called when all is imported: a KeyboardInterrupt is caught from then
    on.
    """
    settings = Settings(limits)
    settings.begin = begin
    try:
        code = _attempt(settings, sys.argv[1:] if arguments is None else arguments)
        if settings.unwritten is not None:
            if settings.done or not settings.unwritten.unread:
                done = f"; this is done: {settings.done}" if settings.done else ""
                complain(f"{settings.unwritten}{done}")
            code = code or settings.unwritten.exit_code
        if settings.interrupts.came and not code:
            stopped = StoppedError(settings.interrupts.came[0], "all was done before that")
            complain(str(stopped))
            code = stopped.exit_code
        return code
    finally:
        settings.interrupts.end()


def main(begin: Callable[[], object] | None = None, limits: ClientLimits | None = None) -> None:
    """Run the process's command line and exit. `begin`: see `run`."""
    code = run(None, begin, limits)
    try:
        sys.stdout.flush()
    except OSError:  # said already; the interpreter must not try again at its end
        sys.stdout = None
    sys.exit(code)


if __name__ == "__main__":
    main()
