"""The program `duplexd`: run, check, demo, journal inspect, attach, detach.

Expected errors are one line each and an exit code of `errors.py`; a traceback is a bug. Each
command imports what it needs, because `duplexd --version` should not load an event loop.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from duplexd import __version__
from duplexd.daemon.lean import lean
from duplexd.errors import DuplexdError, ForbiddenError
from duplexd.limits import (
    ATTACH_CONNECTIONS_MAX,
    ATTACH_DEAD_SECONDS_DEFAULT,
    ATTACH_DEAD_SECONDS_MAX,
    ATTACH_TIMEOUT_SECONDS_DEFAULT,
    ATTACH_TIMEOUT_SECONDS_MAX,
    ATTACH_TIMEOUT_SECONDS_MIN,
)
from duplexd.printable import printable
from duplexd.runtime.descriptors import open_standard
from duplexd.runtime.in_time import left_behind

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def _complete_file(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Leaves it to the shell, which knows files best."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


_CONFIG_OPTION = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    required=True,
    shell_complete=_complete_file,
    help="The configuration, a TOML file.",
)
_LOG_OPTION = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
_ADOPT_OPTION = click.option(
    "--adopt",
    is_flag=True,
    help="Take primary images as they are, though they belong to another state directory, or"
    " changed while the daemon was down.",
)
_JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def main() -> NoReturn:
    """The entry point: turns errors into a line on stderr and an exit code."""
    open_standard()
    code = _run()
    if left_behind():
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run() -> int:
    """The exit code."""
    try:
        cli.main(standalone_mode=False)
    except SystemExit as error:  # of a command that has said all
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except DuplexdError as error:
        return _failed(str(error), error.exit_code)
    except BrokenPipeError:
        # the reader is gone: the interpreter must not try to flush again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        about = f"{error.filename}: " if error.filename else ""
        code = ForbiddenError.exit_code if error.errno in {errno.EACCES, errno.EPERM} else 1
        return _failed(f"{about}{error.strerror or error}", code)
    return 0


def _failed(text: str, code: int) -> int:
    with contextlib.suppress(OSError):  # if stderr cannot be written, the exit code is enough
        for line in text.splitlines():
            click.echo(f"duplexd: {printable(line)}", err=True)
    return code


_EXAMPLES = """\b
Examples:
  duplexd check --config /etc/duplexd/db.toml
  duplexd run --config /etc/duplexd/db.toml
  duplexd journal inspect /var/lib/duplexd/db
  duplexd attach tables /dev/nbd0 --socket /run/duplexd/db/nbd.sock
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.version_option(__version__, prog_name="duplexd")
def cli() -> None:
    """Serve block volumes over NBD, mirror them, and suspend all mirrors at one point."""


@cli.command(short_help="Serve the configured volumes until SIGTERM.")
@_CONFIG_OPTION
@_LOG_OPTION
@_ADOPT_OPTION
def run(config_path: str, log_level: str, adopt: bool) -> None:
    """Serve the configured volumes until SIGTERM; SIGHUP reads the file again."""
    with lean():
        from duplexd.daemon import process
        from duplexd.runtime import log

    log.configure(log_level)
    process.run(config_path, adopt)


@cli.command(short_help="Check whether `run` and a reload would accept the configuration.")
@_CONFIG_OPTION
@_JSON_OPTION
def check(config_path: str, as_json: bool) -> None:
    """Check whether `run`, and a reload if a daemon runs, would accept the configuration; change
    nothing.
    """
    with lean():
        from duplexd.daemon import checking

    found = checking.check(config_path)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    elif found.settings and not found.problems:
        click.echo(checking.describe(found.settings, found.reload))
        for line in found.warnings:
            click.echo(f"duplexd: warning: {printable(line)}", err=True)
    if found.problems and not as_json:
        sys.exit(_failed("\n".join(found.problems), found.exit_code))
    sys.exit(found.exit_code)


@cli.command(hidden=True)
@_CONFIG_OPTION
@_LOG_OPTION
@_ADOPT_OPTION
@click.option("--link", "descriptor", type=int, required=True)
@click.argument("formats", nargs=-1, metavar="[NAME=NUMBER]...")
def successor(
    config_path: str, log_level: str, adopt: bool, descriptor: int, formats: tuple[str, ...]
) -> None:
    """Take the place of a daemon that writes these formats, until its process is this program, too.
    The options are those of `run`.
    """
    with lean():
        from duplexd.daemon import process
        from duplexd.daemon.link import Link
        from duplexd.daemon.loading import read_in_time
        from duplexd.daemon.successor import succeed
        from duplexd.runtime import log

    # Versions before this one do not give the text
    text = sys.stdin.buffer.read().decode() or read_in_time(config_path)
    settings = succeed(config_path, text, formats)
    log.configure(log_level)
    process.stand_in(settings, text, adopt, Link.at(descriptor))


@cli.command()
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    help="How many times the group is suspended.  [default: 10]",
)
@click.option(
    "--pairs",
    type=click.IntRange(16, 4096),
    help="Pairs of the last part, which cuts them all at once.  [default: 1000]",
)
def demo(rounds: int | None, pairs: int | None) -> None:
    """Write to four volumes, suspend them ten times, check every cut."""
    from duplexd.demo import main as program

    sys.exit(program.main(rounds or program.ROUNDS, pairs or program.MANY))


@cli.command("attach", short_help="A volume as /dev/nbdN, reconnected when the daemon is back.")
@click.argument("volume")
@click.argument("device", metavar="DEVICE")
@click.option(
    "--socket",
    "socket_path",
    metavar="PATH",
    default="",
    shell_complete=_complete_file,
    help="The daemon's NBD socket, for a VOLUME that is a name.",
)
@click.option(
    "--connections",
    type=click.IntRange(1, ATTACH_CONNECTIONS_MAX),
    default=2,
    show_default=True,
    help="How many, where the server allows several.",
)
@click.option(
    "--timeout",
    type=click.IntRange(ATTACH_TIMEOUT_SECONDS_MIN, ATTACH_TIMEOUT_SECONDS_MAX),
    default=ATTACH_TIMEOUT_SECONDS_DEFAULT,
    show_default=True,
    help="Seconds after which a request without an answer is sent again, on a new connection.",
)
@click.option(
    "--dead-timeout",
    type=click.IntRange(1, ATTACH_DEAD_SECONDS_MAX),
    default=ATTACH_DEAD_SECONDS_DEFAULT,
    show_default=True,
    help="Seconds without a daemon after which requests fail.",
)
@click.option(
    "--wait",
    type=click.FloatRange(0, 86400),
    default=0.0,
    help="Seconds to wait for the volume at the start.",
)
def attach(
    volume: str,
    device: str,
    socket_path: str,
    connections: int,
    timeout: int,
    dead_timeout: int,
    wait: float,
) -> None:
    """Make VOLUME the block device DEVICE (/dev/nbd0, ...), and reconnect it when the daemon is
    back, until SIGTERM. VOLUME is a name, or an NBD URI.
    """
    from duplexd.attach import attaching
    from duplexd.attach.device import NbdDevice
    from duplexd.attach.export import address_of
    from duplexd.limits import AttachLimits
    from duplexd.runtime import log

    log.configure("info")
    uri = address_of(volume, socket_path)
    wishes = attaching.Wishes(uri, connections, timeout, dead_timeout, wait)
    attaching.attach(NbdDevice.named(device), wishes, AttachLimits())


@cli.command("detach", short_help="End a device that `attach` made.")
@click.argument("device", metavar="DEVICE")
@click.option("--force", is_flag=True, help="Although it is mounted: its user gets errors.")
@_JSON_OPTION
def detach(device: str, force: bool, as_json: bool) -> None:
    """End the block device DEVICE, of whatever NBD client it is, unless it is in use."""
    from duplexd.attach import attaching
    from duplexd.attach.device import NbdDevice

    done = attaching.detach(NbdDevice.named(device), force)
    if as_json:
        click.echo(json.dumps(done, indent=2))
    else:
        click.echo(f"{device} {'was not attached' if done['already'] else 'is detached'}")


@cli.group()
def journal() -> None:
    """Read a journal while the daemon is stopped."""


@journal.command()
@click.argument("directory", type=click.Path(path_type=Path))
@_JSON_OPTION
def inspect(directory: Path, as_json: bool) -> None:
    """Print the records and markers of the journal in DIRECTORY, and a verdict."""
    from duplexd.daemon.inspection import show

    sys.exit(show(directory, as_json))
