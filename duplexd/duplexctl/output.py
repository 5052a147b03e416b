"""Where duplexctl writes.

Output may fail as any file does: the reader has gone, the disk is full.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

from duplexd.errors import DuplexdError
from duplexd.printable import only_text

if TYPE_CHECKING:
    from collections.abc import Iterator


class OutputError(DuplexdError):
    """Standard output cannot be written.

    `unread`: its reader has gone, and may have seen enough.
    """

    unread = False

    @classmethod
    def of(cls, error: OSError) -> OutputError:
        """What kept stdout from taking it."""
        made = cls(f"the output could not be written: {error.strerror or error}")
        made.unread = error.errno == errno.EPIPE
        return made


@contextmanager
def writing() -> Iterator[None]:
    """Within, nothing is done but to write to stdout. Raises OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError.of(error) from None


def put(text: str) -> None:
    """A line, or several, to stdout at once. JSON is not changed: it has no such characters.

    Raises OutputError.
    """
    with writing():
        click.echo(only_text(text))


def complain(text: str) -> None:
    """A line, or several, to stderr; a failure to write it is ignored."""
    with suppress(OSError):
        click.echo(f"duplexctl: {only_text(text)}", err=True)
