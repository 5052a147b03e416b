"""NBD addresses: `nbd://host:port/export`, `nbd+unix:///export?socket=/path`.

`nbds` and `nbds+unix` require TLS. Source: NetworkBlockDevice/nbd, doc/uri.md; clients and tools of
others take the same text.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from .constants import DEFAULT_PORT

# Whether TLS is required, and whether it is a Unix socket
SCHEMES = {
    "nbd": (False, False),
    "nbds": (True, False),
    "nbd+unix": (False, True),
    "nbds+unix": (True, True),
}


@dataclass(frozen=True)
class NbdUri:
    """Where an export is: a Unix socket if `socket` is not empty, else `host` and `port`."""

    export: str = ""
    socket: str = ""
    host: str = "localhost"
    port: int = DEFAULT_PORT
    tls: bool = False

    def __str__(self) -> str:
        scheme = "nbds" if self.tls else "nbd"
        export = quote(self.export, safe="")
        if self.socket:
            return f"{scheme}+unix:///{export}?socket={quote(self.socket, safe='/')}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}/{export}"


def parse_uri(text: str) -> NbdUri:
    """An address. Raises ValueError that says what was expected."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(
            f"{text!r}: bad host or port ({error}); expected nbd://HOST:PORT/VOLUME, an IPv6 "
            "address in brackets, a port from 0 to 65535"
        ) from None
    if parts.scheme not in SCHEMES:
        raise ValueError(
            f"{text!r} is not an NBD address; expected nbd://HOST:PORT/VOLUME or "
            "nbd+unix:///VOLUME?socket=PATH"
        )
    if "#" in text:  # else everything behind it would be lost from the name
        raise ValueError(f"{text!r} has a fragment; write # as %23 in a name")
    tls, unix = SCHEMES[parts.scheme]
    export = _unquoted(parts.path.removeprefix("/"), text)
    sockets = _sockets(parts.query, text)
    if unix:
        if len(sockets) != 1 or not sockets[0] or parts.netloc:
            raise ValueError(
                f"{text!r} needs one socket; expected {parts.scheme}:///VOLUME?socket=PATH"
            )
        return NbdUri(export, sockets[0], tls=tls)
    if sockets:
        raise ValueError(f"{text!r} names a socket; expected nbd+unix:///VOLUME?socket=PATH")
    return NbdUri(
        export,
        host=host or "localhost",
        port=DEFAULT_PORT if port is None else port,
        tls=tls,
    )


def _sockets(query: str, text: str) -> list[str]:
    """The values of `socket`. Not by `parse_qs`, which reads the forms of HTML, where + is a space.

    Parameters of TLS and experimental ones (x-) are for clients that know them.
    """
    sockets = []
    for parameter in query.split("&") if query else []:
        name, _, value = parameter.partition("=")
        if name == "socket":
            sockets.append(_unquoted(value, text))
        elif not name.startswith(("tls-", "x-")):
            raise ValueError(f"{text!r}: unknown parameter {name!r}; expected socket=PATH")
    return sockets


def _unquoted(part: str, text: str) -> str:
    try:
        plain = unquote(part, errors="strict")
        plain.encode()  # an argument may have other bytes, which Python keeps as surrogates
    except UnicodeError:
        raise ValueError(f"{text!r}: the name or the path is not UTF-8") from None
    return plain
