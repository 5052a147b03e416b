"""Standard input, output and error of a program: there, whoever started it. Imports next to
nothing.
"""

from __future__ import annotations

import os
import sys

_NAMES = ("stdin", "stdout", "stderr")
opened: set[int] = (
    set()
)  # those that were closed when the program began: nobody reads what goes there


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
            assert got == number, got
            os.set_inheritable(number, True)
            opened.add(number)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False
