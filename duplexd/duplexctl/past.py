"""`--at POINT`: a point of the past on a command line, as a number or a time."""

from __future__ import annotations

import re
from datetime import datetime

import click

from duplexd.core.past_point import PastPoint

_NUMBER = re.compile(r"#?([0-9]{1,18})")
_CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,6})?)?")
_EXPECTED = (
    'a time ("14:01:50" of today, "2026-11-23T14:01:50", with "Z" for UTC), or a number of the '
    "sequence"
)


class Point(click.ParamType[object, PastPoint]):
    """A number, or a time; one without a zone is of this machine's."""

    name = "point"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> PastPoint:
        text = str(value).strip()
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
