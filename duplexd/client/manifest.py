"""What can be read of the cuts that volumes are at: the manifest that a backup begins with.

It says of each volume under which name and at which addresses it is read, and of all of them
whether they are at one cut, with that cut's certificate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.client import certificate, survey
from duplexd.client.results import Points, Suspended
from duplexd.core.cut_states import CONSISTENT, VOID
from duplexd.core.pair_states import SUSPENDED
from duplexd.errors import DuplexdError
from duplexd.nbd.uri import NbdUri

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.client.survey import Links
    from duplexd.config.groups import Group
    from duplexd.json_object import Json


async def ask(group: Group, links: Links) -> Points:
    """See `Client.points`. Raises if one of the controllers cannot be asked."""
    statuses = await survey.ask_status(group, links)
    rows = [
        _row(group, name, status["controller"], volume)
        for name, status in statuses.items()
        for volume in status["volumes"]
    ]
    cut = _common(rows)
    first = next((row for row in rows if row["cut"] == cut), None) if cut else None
    return Points(
        group=group.name,
        cut=cut,
        verdict=_verdict(rows) if first else None,
        tag=first["tag"] if first else "",
        time=max((row["time"] for row in rows), default=None) if first else None,
        controllers={
            name: {
                "nbd": status["controller"].get("nbd") or [],
                "sequence": status["controller"]["sequence"],
            }
            for name, status in statuses.items()
        },
        volumes=rows,
        certificate=await _certificate(group, links, rows, cut) if cut else None,
    )


def _row(group: Group, controller: str, status: Json, volume: Json) -> Json:
    secondary, cut = volume.get("secondary") or {}, survey.cut_of(volume)
    name = volume["name"]
    why = _why_not(volume, cut)
    export = f"{name}@{cut['id']}" if not why else None
    addresses = status.get("nbd") or []
    return {
        "name": group.title(controller, name),
        "controller": status["name"],
        "volume": name,
        "size": secondary.get("as_of_size") or volume["size"],  # it may have grown since its cut
        "export": export,
        "uris": [str(uri) for uri in uris(export, addresses)] if export else [],
        "cut": cut.get("id"),
        "sequence": cut.get("sequence"),
        "time": cut.get("time"),
        "tag": cut.get("tag", ""),
        "verdict": cut.get("verdict"),
        "path": secondary.get("path", ""),
        "readers": [each["name"] for each in volume.get("readers") or ()],
        "why": why,
    }


def _why_not(volume: Json, cut: Json) -> str:
    """Why nothing can be read of it; "" if its cut can be."""
    secondary = volume.get("secondary") or {}
    if volume["state"] != SUSPENDED or not cut.get("id"):
        return f"it is {volume['state']}, at no cut"
    if secondary.get("as_of_sequence") != cut["sequence"]:
        error = secondary.get("error") or "it is not at the cut yet"
        return f"its secondary cannot be read: {error}"
    return ""


def uris(export: str, addresses: Iterable[str]) -> Iterable[NbdUri]:
    """Where an export is found, of a controller that listens there."""
    for address in addresses:
        kind, _, place = address.partition(":")
        if kind == "unix":
            yield NbdUri(export, socket=place)
        elif kind == "tcp":
            host, _, port = place.rpartition(":")
            yield NbdUri(export, host=host.strip("[]"), port=int(port))


def _common(rows: Iterable[Json]) -> str | None:
    """The cut that all of them can be read at."""
    cuts = {row["cut"] if row["export"] else None for row in rows}
    return next(iter(cuts)) if len(cuts) == 1 else None


def _verdict(rows: Iterable[Json]) -> str | None:
    """Of all of them together. One that agreed to a cut decides it for those that have it in doubt
    still.
    """
    found = {row["verdict"] for row in rows}
    return next((each for each in (VOID, CONSISTENT) if each in found), None)


async def _certificate(group: Group, links: Links, rows: list[Json], cut: str) -> Json | None:
    """Of a consistent cut, if all controllers say where it is in their journals."""
    seconds = {name: link.limits.answer_seconds_max for name, link in links.items()}
    answers = await _answers(links, cut, seconds)
    if answers is None or any(each.get("verdict") != CONSISTENT for each in answers.values()):
        return None
    proofs = [each["proof"] for each in answers.values() if each.get("proof")]
    first = next(iter(answers.values()))
    made = Suspended(
        verdict=CONSISTENT,
        cut=cut,
        tag=first.get("tag", ""),
        group=group.name,
        controllers={str(each["controller"]): each["sequence"] for each in answers.values()},
        volumes=[row["name"] for row in rows],
        already=True,
        members=proofs,
        time=first["time"],
    )
    try:
        return certificate.make(made)
    except DuplexdError:  # a daemon of before it could say that
        return None


async def _answers(links: Links, cut: str, seconds: Mapping[str, float]) -> dict[str, Json] | None:
    asked = {
        name: link.call("GET", f"/v1/cuts/{cut}", timeout_s=seconds[name])
        for name, link in links.items()
    }
    answers, errors = await survey.gather(asked)
    return None if errors else answers
