"""Where to listen: `unix:/path`, `tcp:host:port`, `tcp:[::1]:port`."""

from __future__ import annotations

from dataclasses import dataclass

from duplexd.errors import ConfigurationError


@dataclass(frozen=True)
class UnixAddress:
    """A Unix socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True)
class TcpAddress:
    """A host and a port; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return (
            f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"
        )


def parse_address(text: str) -> UnixAddress | TcpAddress:
    """Raises ConfigurationError that says what would be right."""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return UnixAddress(rest)
    host, colon, port = rest.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (
        kind == "tcp"
        and colon
        and host
        and port.isascii()
        and port.isdigit()
        and int(port) < 1 << 16
    ):
        return TcpAddress(host, int(port))
    raise ConfigurationError(
        f'cannot listen on "{text}"; write "unix:/PATH", "tcp:HOST:PORT" or "tcp:[IPV6]:PORT"'
    )
