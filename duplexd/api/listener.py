"""Where the control plane listens: a socket in the file system, taken over only from a dead daemon, and TCP addresses for TLS."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
from typing import TYPE_CHECKING

from duplexd.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODE = 0o660
BACKLOG = 128


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # it exists and does something: not ours to remove
        return True


def _group_id(group: str) -> int:
    try:
        return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigurationError(
            f"control.group: no group {group!r} on this machine; create it with `groupadd {group}`"
        ) from None


def _make_free(path: Path) -> None:
    """Remove a dead socket; refuse a path that something else uses."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigurationError(
                f"control.socket: {path} exists and is not a socket; remove it or name another path"
            )
        if _answers(path):
            raise ConfigurationError(
                f"control.socket: another daemon answers at {path}; stop it or name another path"
            )
        path.unlink()


def bind(path: Path, group: str | None) -> socket.socket:
    """A bound socket at `path`, with its mode and group set before it listens. Raises ConfigurationError."""
    group_id = -1 if group is None else _group_id(group)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound = False
    try:
        _make_free(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        sock.bind(str(path))
        bound = True
        os.chown(path, -1, group_id)
        path.chmod(MODE)
    except (OSError, ConfigurationError) as error:
        sock.close()
        if bound:
            path.unlink(missing_ok=True)
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"control.socket: cannot listen at {path}: {error.strerror or error}"
        ) from None
    sock.setblocking(False)
    return sock


def bind_tcp(listen: list[str]) -> list[socket.socket]:
    """Listening sockets for `HOST:PORT`, one for each address that a host has. Raises ConfigurationError, and then listens nowhere."""
    with contextlib.ExitStack() as undo:
        sockets: list[socket.socket] = []
        for index, text in enumerate(listen):
            try:
                for sock in _bind_host(text):
                    undo.callback(sock.close)
                    sockets.append(sock)
            except OSError as error:
                raise ConfigurationError(
                    f"control.tls.listen[{index}]: cannot listen at {text!r}: {error.strerror or error}"
                ) from None
        undo.pop_all()
    return sockets


def _bind_host(text: str) -> Iterator[socket.socket]:
    host, _, port = text.rpartition(":")
    found = socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    for family, target in dict.fromkeys((family, target) for family, _, _, _, target in found):
        sock = socket.create_server(
            target, family=family, backlog=BACKLOG
        )  # IPv6 alone, and an address that is still in TIME_WAIT
        sock.setblocking(False)
        yield sock
