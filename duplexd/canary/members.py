"""What a canary watches: controllers, and the volumes that it writes to.

All is asked for before the first write: a canary that cannot grade (no secondary, no permission to
read one, a version that takes no part in groups) must fail at its start, not at the first cut.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import quote

from duplexd.errors import (
    ConfigurationError,
    NotFoundError,
    UnreachableError,
    WrongStateError,
)
from duplexd.limits import GROUP_PROTOCOL, CanaryLimits
from duplexd.nbd.uri import NbdUri
from duplexd.net.address import Address, UnixAddress, parse_address

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence

    from duplexd.json_object import Json

_LIMITS = CanaryLimits()
_EVERY_ADDRESS = {"0.0.0.0", "::"}
_THIS_MACHINE = {"127.0.0.1", "::1", "localhost"}


class Control(Protocol):
    """A controller's HTTP interface, as `duplexd.client.http.Http` speaks it.

    Every failure is a DuplexdError.
    """

    name: str

    async def call(
        self, method: str, path: str, body: Json | None = None, timeout_s: float | None = None
    ) -> Json: ...

    async def call_bytes(self, method: str, path: str, timeout_s: float | None = None) -> bytes: ...

    def lines(
        self, method: str, path: str, body: Json | None = None
    ) -> AsyncGenerator[Json, None]: ...


class Member(NamedTuple):
    """A controller, where its NBD exports are, and the names of its volumes that the canary writes
    to.
    """

    control: Control
    address: NbdUri
    volumes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the controller."""
        return self.control.name


class Volume(NamedTuple):
    """One of all the members' volumes."""

    member: int
    name: str
    title: str  # controller:volume
    uri: NbdUri


def volumes_of(members: Sequence[Member]) -> list[Volume]:
    """All volumes in the order of the chains: from member to member.

    Consecutive records are on different controllers, since it is between these that a cut can tear.
    """
    turns = zip_longest(
        *(
            [
                Volume(
                    index,
                    name,
                    f"{member.name}:{name}",
                    NbdUri(name, member.address.socket, member.address.host, member.address.port),
                )
                for name in member.volumes
            ]
            for index, member in enumerate(members)
        )
    )
    return [volume for turn in turns for volume in turn if volume is not None]


async def find(
    control: Control,
    targets: Iterable[str],
    host: str | None,
    nbd: Address | None,
    limits: CanaryLimits = _LIMITS,
) -> Member:
    """Ask a controller for the volumes that `targets` name and for its NBD address.

    `host` is where it is (None: this machine). `nbd` is used literally, instead of what it listens
    on: the end of a tunnel may be here. Raises DuplexdError; WrongStateError if a volume has no
    secondary, ForbiddenError if its content may not be read.
    """
    targets = tuple(targets)
    query = "&".join(f"target={quote(target)}" for target in targets)
    timeout_s = limits.answer_seconds_max
    status = await control.call("GET", f"/v1/status?{query}", timeout_s=timeout_s)
    controller = status["controller"]
    if controller.get("group_protocol") != GROUP_PROTOCOL:
        raise WrongStateError(
            f"{control.name}: version {controller.get('version')} speaks another group protocol; "
            "run the same version on all controllers"
        )
    _check_volumes(control.name, status, targets)
    for volume in status["volumes"]:
        if volume["state"] == "SIMPLEX":
            raise WrongStateError(
                f"{control.name}:{volume['name']} has no secondary, so there is nothing to grade; "
                "add one to the configuration"
            )
    await _check_permission(control, status["volumes"][0]["name"], timeout_s)
    return Member(
        control,
        _uri(nbd) if nbd else address(control.name, controller.get("nbd") or (), host),
        tuple(volume["name"] for volume in status["volumes"]),
    )


def _check_volumes(name: str, status: Json, targets: Sequence[str]) -> None:
    """What it answers is what will be written to, so it must be what was asked for."""
    groups = {group["name"]: group["volumes"] for group in status.get("groups", ())}
    meant = {volume for target in targets for volume in [target, *groups.get(target, ())]}
    found = [volume["name"] for volume in status["volumes"]]
    if not found or set(found) - meant:
        raise UnreachableError(
            f"{name}: asked for {', '.join(targets)}, it answers with {found}; nothing is written"
            " there: is it a duplexd of this version?"
        )


async def _check_permission(control: Control, volume: str, timeout_s: float) -> None:
    """Raise ForbiddenError unless we may read secondaries, which takes the same role as grading.

    Asks for a cut that does not exist.
    """
    with suppress(NotFoundError):
        path = f"/v1/cuts/{secrets.token_hex(8)}/volumes/{quote(volume, safe='')}"
        await control.call_bytes("GET", path, timeout_s=timeout_s)


def address(name: str, listen: Sequence[str], host: str | None) -> NbdUri:
    """Where to connect to a controller that listens there. Raises ConfigurationError."""
    for uri in _parsed(listen):
        if uri.socket:
            if host is None:
                return uri
            continue
        where = (host or "localhost") if uri.host in _EVERY_ADDRESS else uri.host
        if host is None or where not in _THIS_MACHINE:
            return NbdUri(host=where, port=uri.port)
    raise ConfigurationError(
        f"controllers.{name}: its volumes cannot be reached from here "
        f'(it listens on {", ".join(listen)}); add nbd = "tcp:HOST:PORT"'
    )


def _parsed(listen: Sequence[str]) -> Iterator[NbdUri]:
    """Those that are addresses: a later version may listen on others."""
    for text in listen:
        with suppress(ValueError):
            yield _uri(parse_address(text))


def _uri(address: Address) -> NbdUri:
    if isinstance(address, UnixAddress):
        return NbdUri(socket=address.path)
    return NbdUri(host=address.host, port=address.port)
