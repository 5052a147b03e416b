"""Groups of volumes over controllers, as plain values.

Two things answer the same questions: the groups file (`groups_file.Groups`, checked by pydantic)
and one daemon behind a socket (`OneDaemon`, a group of one). Commands ask only these questions, so
they need not know which of the two they were given. The values are apart from the file's schema
because pydantic takes longer to import than `duplexctl status` may take in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from duplexd.errors import UsageError
from duplexd.limits import HOLD_SECONDS_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from duplexd.net.address import Address, UrlAddress
    from duplexd.runtime.hooks import GroupHooks

LOCAL = "local"  # what the one daemon behind a socket is called until it says its name


class Place(Protocol):
    """Where a controller answers: on a Unix socket, or at a URL with what TLS needs."""

    @property
    def socket(self) -> Path | None: ...
    @property
    def url(self) -> UrlAddress | None: ...
    @property
    def certificate(self) -> Path | None: ...
    @property
    def key(self) -> Path | None: ...
    @property
    def ca(self) -> Path | None: ...
    @property
    def nbd(self) -> Address | None: ...


class LocalPlace(NamedTuple):
    """The control socket of a daemon on this machine."""

    socket: Path
    url: None = None
    certificate: None = None
    key: None = None
    ca: None = None
    nbd: None = None


@dataclass(frozen=True)
class Group:
    """The targets of a command, by controller.

    `name` is for people. `alone`: all targets are of one daemon, so names need no `controller:`.
    """

    name: str
    members: dict[str, tuple[str, ...]]
    hold_max: float = HOLD_SECONDS_DEFAULT
    canary: tuple[str, ...] = ()
    alone: bool = False
    hooks: tuple[GroupHooks, ...] = ()  # of the groups that were named, in that order
    hooks_file: str = ""  # where they are written

    @property
    def controllers(self) -> tuple[str, ...]:
        return tuple(self.members)

    def title(self, controller: str, volume: str) -> str:
        """What a volume is called in answers: as it is called in targets."""
        return volume if self.alone else f"{controller}:{volume}"


class Directory(Protocol):
    """What commands ask: which controllers there are, and what targets mean."""

    @property
    def controllers(self) -> Mapping[str, Place]: ...
    @property
    def groups(self) -> Mapping[str, object]: ...

    def has(self, target: str) -> bool: ...
    def resolve(self, targets: Sequence[str]) -> Group: ...
    def everything(self) -> Group: ...


class OneDaemon:
    """One daemon behind a socket. Targets are its volumes and groups, also written `local:data`."""

    def __init__(self, socket: str | Path) -> None:
        self.controllers: Mapping[str, Place] = {LOCAL: LocalPlace(Path(socket))}
        self.groups: Mapping[str, object] = {}

    def has(self, target: str) -> bool:
        """Whether `target` is a group that spans controllers, or names its controller."""
        return target.startswith(f"{LOCAL}:")

    def resolve(self, targets: Sequence[str]) -> Group:
        """All targets, as the daemon knows them. Raises UsageError."""
        if not targets:
            raise UsageError("no target given; name at least one volume or group")
        names = dict.fromkeys(target.removeprefix(f"{LOCAL}:") for target in targets)
        return Group(" ".join(names), {LOCAL: tuple(names)}, alone=True)

    def everything(self) -> Group:
        """All that the daemon has."""
        return Group("", {LOCAL: ()}, alone=True)
