"""Readers of the cuts of one or several controllers: they begin on all of them, or on none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.client import survey
from duplexd.client.results import ReaderEnded
from duplexd.core.pair_states import SUSPENDED
from duplexd.errors import (
    DuplexdError,
    TimedOutError,
    UnreachableError,
    WrongStateError,
)
from duplexd.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from duplexd.client.survey import Links
    from duplexd.config.groups import Group
    from duplexd.core.leaving import Leaving
    from duplexd.json_object import Json

_LISTED = 5
_UNSURE = (UnreachableError, TimedOutError)


async def begin(group: Group, links: Links, reader: str, cut: str) -> None:
    """Name a reader of a cut that a suspend has just made. Raises, with none left of it: also
    where the answer was lost, for it may have begun there. One that refused may have another reader
    of that name.
    """
    began, errors = await survey.command(
        group, links, "/v1/readers", {"reader": reader, "cut": cut}
    )
    if not errors:
        return
    unsure = [name for name, error in errors.items() if isinstance(error, _UNSURE)]
    ends = {name: links[name] for name in (*began, *unsure)}
    await survey.command(group, ends, "/v1/readers/release", {"reader": reader})
    try:
        survey.raise_all(errors)
    except DuplexdError as error:
        raise type(error)(
            f"the targets are at cut {cut}, but no reader {reader!r} began: {error}"
        ) from None


async def release(group: Group, links: Links, reader: str) -> ReaderEnded:
    """See `Client.release_reader`."""
    body = {"reader": reader}
    return ReaderEnded(reader, await survey.end(group, links, "/v1/readers/release", body))


def in_the_way(volumes: Mapping[str, Json], how: Leaving) -> list[str]:
    """Who reads these volumes still, apart from the reader that ends.

    Raises WrongStateError if they may not be taken from their cut.
    """
    away = [name for name, each in volumes.items() if how.cut and _cut_of(each) != how.cut]
    if away:
        raise WrongStateError(
            f"not at cut {how.cut}: {' '.join(away)}; nothing was started. A copy of that cut that"
            " was being made is not complete: suspend again, and copy again"
        )
    if how.reader:
        _check_reads(volumes, how.reader)
    still = {
        name: others
        for name, each in volumes.items()
        if (others := [who for who in _names(each) if who != how.reader])
    }
    if how.force or not still:
        return []
    if not how.reader:
        listed = [f"{name} is read by {', '.join(each)}" for name, each in still.items()]
        raise WrongStateError(
            f"{printable('; '.join(listed[:_LISTED]))}: nothing was started; wait until they have"
            " ended, end one with `duplexctl release-reader TARGET NAME`, a clone with `duplexctl"
            " drop-clone TARGET NAME`, or end all of them with --force"
        )
    return list(dict.fromkeys(who for each in still.values() for who in each))


def _check_reads(volumes: Mapping[str, Json], reader: str) -> None:
    missing = [name for name, each in volumes.items() if reader not in _names(each)]
    if missing:
        raise WrongStateError(
            f"reader {reader!r} does not read {' '.join(missing)}: it never began, or was ended;"
            " nothing was started. What it copied may be of no point in time: suspend again, and"
            " copy again"
        )


def _names(volume: Json) -> list[str]:
    return [each["name"] for each in volume.get("readers") or ()]


def _cut_of(volume: Json) -> str:
    return str(survey.cut_of(volume).get("id", "")) if volume["state"] == SUSPENDED else ""
