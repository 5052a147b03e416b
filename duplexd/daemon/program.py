"""The program `duplexd`: run, check, demo, journal inspect.

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
from duplexd.errors import ConfigurationError, DuplexdError, ForbiddenError
from duplexd.runtime.descriptors import open_standard
from duplexd.units import format_size

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config
    from duplexd.json_object import Json

_CONFIG_OPTION = click.option(
    "--config", "config_path", metavar="FILE", required=True, help="The configuration, a TOML file."
)
_JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def main() -> NoReturn:
    """The entry point: turns errors into a line on stderr and an exit code."""
    open_standard()
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except DuplexdError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # the reader is gone: the interpreter must not try to flush again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        about = f"{error.filename}: " if error.filename else ""
        code = ForbiddenError.exit_code if error.errno in {errno.EACCES, errno.EPERM} else 1
        _fail(f"{about}{error.strerror or error}", code)
    sys.exit(0)


def _fail(text: str, code: int) -> NoReturn:
    with contextlib.suppress(OSError):  # if stderr cannot be written, the exit code is enough
        for line in text.splitlines():
            click.echo(f"duplexd: {line}", err=True)
    sys.exit(code)


_EXAMPLES = """\b
Examples:
  duplexd check --config /etc/duplexd/db.toml
  duplexd run --config /etc/duplexd/db.toml
  duplexd journal inspect /var/lib/duplexd/db
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXAMPLES)
@click.version_option(__version__, prog_name="duplexd")
def cli() -> None:
    """Serve block volumes over NBD, mirror them, and suspend all mirrors at one point."""


@cli.command(short_help="Serve the configured volumes until SIGTERM.")
@_CONFIG_OPTION
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
def run(config_path: str, log_level: str) -> None:
    """Serve the configured volumes until SIGTERM; SIGHUP reads the file again."""
    from duplexd.config import load as config
    from duplexd.daemon import service
    from duplexd.runtime import log

    settings = config.load(config_path)
    log.configure(log_level)
    service.run(settings)


@cli.command(short_help="Check whether `run` would accept the configuration.")
@_CONFIG_OPTION
@_JSON_OPTION
def check(config_path: str, as_json: bool) -> None:
    """Check whether `run` would accept the configuration; change nothing."""
    from duplexd.config import load as config
    from duplexd.daemon import preflight

    try:
        settings = config.load(config_path)
        problems = [f"{config_path}: {problem.line}" for problem in preflight.look(settings)]
    except ConfigurationError as error:
        settings, problems = None, str(error).splitlines()
    if as_json:
        click.echo(
            json.dumps(
                {
                    "ok": not problems,
                    "problems": problems,
                    "summary": _summary(settings) if settings else None,
                },
                indent=2,
            )
        )
    elif settings and not problems:
        click.echo(_describe(settings))
    if problems:
        if not as_json:
            _fail("\n".join(problems), ConfigurationError.exit_code)
        sys.exit(ConfigurationError.exit_code)


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


def _summary(settings: Config) -> Json:
    volumes = {
        name: {
            "size": volume.size,
            "primary": str(volume.primary),
            "secondary": str(volume.secondary) if volume.secondary else None,
            "mode": volume.mode if volume.secondary else None,
        }
        for name, volume in settings.volumes.items()
    }
    tls = settings.control.tls
    return {
        "controller": settings.controller.name,
        "state_dir": str(settings.controller.state_dir),
        "journal_size": settings.controller.journal_size,
        "listen": [str(address) for address in settings.nbd.listen],
        "control": str(settings.control.socket),
        "control_tls": [address.authority for address in tls.listen] if tls else [],
        "volumes": volumes,
        "groups": {name: list(group.volumes) for name, group in settings.groups.items()},
    }


def _describe(settings: Config) -> str:
    own, tls = settings.controller, settings.control.tls
    control = [
        str(settings.control.socket),
        *(f"TLS {address.authority}" for address in (tls.listen if tls else ())),
    ]
    lines = [
        f"{settings.source}: ok",
        f"controller {own.name}: state in {own.state_dir}, journal {format_size(own.journal_size)}",
        f"NBD        {', '.join(map(str, settings.nbd.listen))}",
        f"control    {', '.join(control)}",
    ]
    for name, volume in settings.volumes.items():
        pair = (
            f"{volume.primary} -> {volume.secondary} ({volume.mode})"
            if volume.secondary
            else f"{volume.primary}, no secondary"
        )
        lines.append(f"volume     {name}: {format_size(volume.size)}, {pair}")
    lines += [
        f"group      {name}: {', '.join(group.volumes)}" for name, group in settings.groups.items()
    ]
    return "\n".join(lines)
