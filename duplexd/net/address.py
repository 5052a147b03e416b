"""Addresses as values: text is parsed once, where it enters, and carried as a type from then on.

Configuration, command line, status documents and tests all write addresses as text. When each
reader took that text apart by itself, they disagreed about brackets, ports and case, and each had
its own words for a mistake. So there is one grammar for each form, here, and a value of one of
these types need not be checked again. `str()` gives the text back.

    unix:PATH                  UnixAddress
    tcp:HOST:PORT              TcpAddress      HOST:PORT where nothing but TCP is possible
    http://HOST:PORT           UrlAddress      https:// for TLS

Host names are lower-cased, because two spellings of one name are one place. An IPv6 address is
written in brackets, without which its last group would read like the port. NBD URIs have a grammar
of their own: `duplexd.nbd.uri`. Pure.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from duplexd.units import toml

_PORT_DIGITS_MAX = 5


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket in the file system."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return True


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host, without brackets, and a port. To bind port 0 takes any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp:{self.authority}"

    @property
    def authority(self) -> str:
        """`HOST:PORT`, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True)
class UrlAddress:
    """Where a controller answers HTTP over TCP, with or without TLS."""

    where: TcpAddress
    tls: bool

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.where.authority}"


Address = UnixAddress | TcpAddress


def parse_address(text: object) -> Address:
    """`unix:PATH` or `tcp:HOST:PORT`. Raises ValueError that says what was expected."""
    kind, _, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
    if kind == "unix" and rest:
        return UnixAddress(rest)
    if kind == "tcp":
        return _parse_tcp(rest, text, "tcp:", "unix:PATH or tcp:HOST:PORT")
    raise _not_an_address(text, "unix:PATH or tcp:HOST:PORT")


def parse_host_port(text: object) -> TcpAddress:
    """`HOST:PORT`. Raises ValueError that says what was expected."""
    return _parse_tcp(text if isinstance(text, str) else "", text, "", "HOST:PORT")


def parse_url(text: object) -> UrlAddress:
    """`http://HOST:PORT` or `https://HOST:PORT`, nothing after it but `/`. Raises ValueError that
    says what was expected.
    """
    plain = text.lower() if isinstance(text, str) else ""
    try:
        parts = urlsplit(plain)
        url = UrlAddress(TcpAddress(parts.hostname or "", parts.port or 0), parts.scheme == "https")
    except ValueError:  # as for every other mistake
        parts, url = urlsplit(""), UrlAddress(TcpAddress("", 0), False)
    # Only what is written back the same has nothing else in it. It goes into the head of each
    # request, where a blank ends it.
    whole = str(url) == plain.removesuffix("/") and plain.isascii() and plain.isprintable()
    if not whole or " " in plain or not parts.hostname or not parts.port:
        raise ValueError(f"{toml(text)} is not the URL of a controller; expected https://HOST:PORT")
    return url


def _parse_tcp(rest: str, text: object, kind: str, expected: str) -> TcpAddress:
    host, colon, port = rest.rpartition(":")
    host = host.lower()
    if not (colon and host and port.isascii() and port.isdigit()):
        raise _not_an_address(text, expected)
    if len(port) > _PORT_DIGITS_MAX or int(port) >= 1 << 16:
        raise ValueError(f"{toml(text)}: port {port} is out of range; expected 1 to 65535")
    if host.startswith("[") and host.endswith("]") and _is_ipv6(host[1:-1]):
        return TcpAddress(host[1:-1], int(port))
    if _is_ipv6(host):
        raise ValueError(
            f"{toml(text)}: an IPv6 address needs brackets; expected for example {kind}[::1]:{port}"
        )
    if ":" in host or "[" in host:
        raise _not_an_address(text, expected)
    return TcpAddress(host, int(port))


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _not_an_address(text: object, expected: str) -> ValueError:
    return ValueError(f"{toml(text)} is not a listen address; expected {expected}")
