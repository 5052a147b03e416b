"""NBD addresses: `nbd://host:port/export`, `nbd+unix:///export?socket=/path`.

`nbds` and `nbds+unix` require TLS. Source: NetworkBlockDevice/nbd, doc/uri.md; clients and tools of
others take the same text.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

from duplexd.nbd.constants import DEFAULT_PORT

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
    parts = urlsplit(text)
    if parts.scheme not in SCHEMES:
        raise ValueError(
            f"{text!r} is not an NBD address; expected nbd://HOST:PORT/VOLUME or "
            "nbd+unix:///VOLUME?socket=PATH"
        )
    tls, unix = SCHEMES[parts.scheme]
    export = unquote(parts.path.removeprefix("/"))
    sockets = parse_qs(parts.query).get("socket", [])
    if unix:
        if len(sockets) != 1 or parts.netloc:
            raise ValueError(
                f"{text!r} needs one socket; expected {parts.scheme}:///VOLUME?socket=PATH"
            )
        return NbdUri(export, sockets[0], tls=tls)
    if sockets:
        raise ValueError(f"{text!r} names a socket; expected nbd+unix:///VOLUME?socket=PATH")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{text!r}: the port is not a number from 0 to 65535") from None
    return NbdUri(
        export,
        host=parts.hostname or "localhost",
        port=DEFAULT_PORT if port is None else port,
        tls=tls,
    )
