"""`--at POINT`: a point of the past on a command line, as a number, a time or a mark."""

from __future__ import annotations

import re
from datetime import datetime

import click

from duplexd.core.past_point import PastPoint
from duplexd.duplexctl.options import Name

_NUMBER = re.compile(r"#?([0-9]{1,18})")
_CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,6})?)?")
_EXPECTED = (
    'a time ("14:01:50" of today, "2026-11-23T14:01:50", with "Z" for UTC), a number of the '
    'sequence, or "mark:ID" or "mark:TAG"'
)


class Point(click.ParamType[object, PastPoint]):
    """A number, a mark, or a time; one without a zone is of this machine's."""

    name = "point"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> PastPoint:
        text = str(value).strip()
        kind, _, name = text.partition(":")
        if kind == "mark" and name:
            return PastPoint(mark=Name().convert(name, param, ctx))
        if number := _NUMBER.fullmatch(text):
            return PastPoint(sequence=int(number[1]))
        try:
            return PastPoint(time=_time(text))
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is not a point; expected {_EXPECTED}", param, ctx)


def _time(text: str) -> float:
    """Raises ValueError."""
    if _CLOCK.fullmatch(text):
        hour, _, rest = text.partition(":")
        text = f"{datetime.now().astimezone().date()}T{hour:0>2}:{rest}"
    when = datetime.fromisoformat(text)
    if "T" not in text and " " not in text:
        raise ValueError("a day is no time")
    return when.astimezone().timestamp()
