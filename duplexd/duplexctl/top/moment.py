"""A look as `top` keeps it: when it was, with every text made safe for the terminal. Pure.

Texts are changed here, once, before they are measured, compared or drawn: what would move the
cursor, and what the terminal's encoding does not have, becomes an escape. The same goes for names,
so that a volume is called alike in the status, the metrics and the cuts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.duplexctl.top.figures import parse
from duplexd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.client.looking_on import Look
    from duplexd.duplexctl.top.figures import Figures
    from duplexd.json_object import Json

    Shown = Callable[[str], str]


class Moment(NamedTuple):
    """`at`: by the monotonic clock, for rates. `time`: seconds since 1970, for ages. `findings` is
    None if health is not known.
    """

    at: float
    time: float
    status: Json
    findings: list[Json] | None
    cuts: list[Json]
    cuts_of: str  # the volume or group that they were made of; empty: all
    figures: dict[str, Figures]  # by what the names of their volumes begin with
    missing: list[str]


def moment(look: Look, at: float, time: float, shown: Shown) -> Moment:
    """`shown`: see `for_terminal`."""
    return Moment(
        at,
        time,
        _object(look.status, shown),
        None if look.findings is None else [_object(each, shown) for each in look.findings],
        [_object(each, shown) for each in look.cuts],
        look.cuts_of,
        {shown(prefix): parse(text, shown, prefix) for prefix, text in look.metrics.items()},
        [shown(each) for each in look.missing],
    )


def with_findings(now: Moment, findings: list[Json] | None, shown: Shown) -> Moment:
    """The same with what is not well by now."""
    found = None if findings is None else [_object(each, shown) for each in findings]
    return now if found == now.findings else now._replace(findings=found)


def _object(value: Json, shown: Shown) -> Json:
    """The same with every text in it, and every name, as `shown` makes it."""
    return {shown(name): _texts(each, shown) for name, each in value.items()}


def _texts(value: object, shown: Shown) -> object:
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, list):
        return [_texts(each, shown) for each in value]
    if isinstance(value, dict):
        return _object(value, shown)
    return value


def for_terminal(encoding: str) -> Shown:
    """Makes a text one that a terminal of this encoding shows as it is."""

    def shown(text: str) -> str:
        return printable(text).encode(encoding, "backslashreplace").decode(encoding)

    return shown
