"""Standard input, output and error of a program: open, whatever started it.

A program that is started with a closed stdout (`>&-`) gets number 1 for the first file that it
opens, and then prints into it; for a daemon that opens images this is how a log line ends up in a
volume. Imports next to nothing, because it has to run before anything else is opened.

And they take any text. A name of a volume or a path may have letters that the terminal's encoding
lacks, or bytes that are no text at all; an answer with an escape in it is better than none.
"""

from __future__ import annotations

import io
import os
import sys

_NAMES = ("stdin", "stdout", "stderr")
# those that were closed when the program began: what is written there is not read
opened: set[int] = set()


def open_standard() -> None:
    """Open on /dev/null which of descriptors 0 to 2 is closed (`>&-`), for this program and those
    it starts.

    To be called before anything else is opened: that would get the number, and what is printed
    would go into it.
    """
    for number, name in enumerate(_NAMES):
        if _is_closed(number):
            mode = os.O_WRONLY if number else os.O_RDONLY
            got = os.open(os.devnull, mode)  # the lowest number that is free: this one
            if got != number:
                raise RuntimeError(f"descriptor {number} was opened as {got}; start it again")
            os.set_inheritable(number, True)
            opened.add(number)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False
