"""Text of others on a terminal or in a log: what would do something there is written as an escape.

A tag, a canary's detail, the name of a group or an error of another controller may hold anything,
and JSON keeps it exactly. On a terminal an escape sequence moves the cursor, changes the title or
the clipboard; a line end makes a second line that looks like ours; a right-to-left mark reorders
what is read. So every text is made of lines that went through `printable`. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def printable(text: str) -> str:
    r"""On one line, as `\x1b` or `\u202e` where a character does not print."""
    if text.isprintable():
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def joined(lines: Iterable[str]) -> str:
    """Lines as one text: a line end within one of them is escaped, too."""
    return "\n".join(map(printable, lines))


def only_text(text: str) -> str:
    """Several lines that are put together already: their ends, and tabs between columns, are all
    that is left of control.
    """
    return "\t".join(joined(part.split("\n")) for part in text.split("\t"))
