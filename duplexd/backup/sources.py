"""Where the points of a cut are read, or volumes restored, and as QEMU names them.

A controller on this machine is read through its Unix socket, one that commands reach over https
over TLS, with the same certificate: copies never cross a network in the clear. `nbd` of the groups
file comes before what a controller says it listens on. QEMU takes an image as a JSON object, so
no name or path is quoted.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple, Protocol

from duplexd.canary.members import address
from duplexd.config.groups import LOCAL
from duplexd.errors import ConfigurationError
from duplexd.nbd.constants import CONTEXT_UNCHANGED
from duplexd.nbd.uri import NbdUri

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from duplexd.config.groups import Place
    from duplexd.json_object import Json

# What QEMU calls the files in a directory of credentials.
_CREDENTIALS = {"ca": "ca-cert.pem", "certificate": "client-cert.pem", "key": "client-key.pem"}


class Source(NamedTuple):
    """A volume at the cut. `name`: as in targets; `place`: of its controller in the groups file."""

    name: str
    controller: str
    volume: str
    size: int
    uri: NbdUri
    place: Place

    def image(self, since: str = "") -> str:
        """As qemu-img takes it. If that is a cut, only what changed since then is data of it, and
        the rest comes from what it lies on. (QEMU calls the option that chooses what an image says
        of its extents `x-dirty-bitmap`.)
        """
        file: Json = {"driver": "nbd", "export": self.uri.export, "server": self._server()}
        if since:
            file["x-dirty-bitmap"] = CONTEXT_UNCHANGED + since
        if self.uri.tls:
            file |= {"tls-creds": _id(self.name), "tls-hostname": self._host()}
        return "json:" + json.dumps({"driver": "raw", "file": file})

    def credentials(self, above: Path) -> list[str]:
        """What qemu-img needs besides, for TLS, of a directory that `link_credentials` made."""
        if not self.uri.tls:
            return []
        where = str(_directory(above, self.name)).replace(",", ",,")
        return ["--object", f"tls-creds-x509,id={_id(self.name)},endpoint=client,dir={where}"]

    def link_credentials(self, above: Path) -> None:
        """The certificate, its key and its authority, by the names that QEMU looks for."""
        if not self.uri.tls:
            return
        made = _directory(above, self.name)
        made.mkdir(0o700, parents=True)
        for kind, name in _CREDENTIALS.items():
            path: Path | None = getattr(self.place, kind)
            if path is None and kind == "key":  # the certificate's file has it
                path = self.place.certificate
            if path is None:
                raise ConfigurationError(
                    f"controllers.{self.controller}: its volumes are copied over TLS, for which"
                    f" {kind} has to be named in the groups file"
                )
            (made / name).symlink_to(path)

    def _server(self) -> Json:
        if self.uri.socket:
            return {"type": "unix", "path": self.uri.socket}
        return {"type": "inet", "host": self.uri.host, "port": str(self.uri.port)}

    def _host(self) -> str:
        """The name that the certificate of the controller has."""
        url = self.place.url
        return url.where.host if url is not None else self.uri.host


class Found(Protocol):
    """What says which volumes there are, and where their controllers listen: points of a cut
    (`client.Points`), or volumes to restore. Rows have `name`, `controller`, `volume`, `size` and
    `export`.
    """

    @property
    def controllers(self) -> Mapping[str, Json]: ...
    @property
    def volumes(self) -> Sequence[Json]: ...


def find(points: Found, places: Mapping[str, Place]) -> list[Source]:
    """Of each volume. Raises ConfigurationError if one cannot be reached from here."""
    return [_source(row, points, places) for row in points.volumes]


def _source(row: Json, points: Found, places: Mapping[str, Place]) -> Source:
    known_as = str(row["name"]).partition(":")[0] if ":" in row["name"] else LOCAL
    place = places[known_as]
    host = place.url.where.host if place.url is not None else None
    # an address in the groups file is used as it is: the end of a tunnel may be on this machine
    named = [str(place.nbd)] if place.nbd else []
    listen = named or _ours(points.controllers[known_as]["nbd"])
    found = address(known_as, listen, None if named else host)
    tls = place.url is not None and place.url.tls
    uri = NbdUri(str(row["export"]), found.socket, found.host, found.port, tls)
    return Source(
        row["name"], str(row["controller"]), str(row["volume"]), int(row["size"]), uri, place
    )


def _ours(listen: list[str]) -> list[str]:
    """Without sockets that are for other users, unless there is nothing else."""
    kinds = [(text, text.partition(":")) for text in listen]
    usable = [text for text, (kind, _, path) in kinds if kind != "unix" or os.access(path, os.W_OK)]
    return usable or listen


def _id(name: str) -> str:
    """QEMU's ids begin with a letter and have no colon."""
    return "tls-" + name.replace(":", "-")


def _directory(above: Path, name: str) -> Path:
    return above / name.replace(":", "+")
