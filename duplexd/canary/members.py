"""What a canary watches: controllers, as it asks them, and the volumes that it writes to."""

from __future__ import annotations

import secrets
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote

from duplexd.errors import ConfigurationError, NotFoundError, WrongStateError
from duplexd.limits import GROUP_PROTOCOL
from duplexd.nbd.uri import NbdUri
from duplexd.net.address import Address, UnixAddress, parse_address

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    Json = dict[str, Any]

ANSWER_SECONDS_MAX = 10.0
_EVERY_ADDRESS = {"0.0.0.0", "::"}
_THIS_MACHINE = {"127.0.0.1", "::1", "localhost"}


class Control(Protocol):
    """A controller's HTTP interface, as `duplexd.client.http.Http` speaks it. Every failure is a DuplexdError."""

    name: str

    async def call(
        self, method: str, path: str, body: Json | None = None, timeout_s: float | None = None
    ) -> Json: ...

    async def call_bytes(self, method: str, path: str, timeout_s: float | None = None) -> bytes: ...

    def lines(
        self, method: str, path: str, body: Json | None = None
    ) -> AsyncGenerator[Json, None]: ...


class Member(NamedTuple):
    """A controller, where its NBD exports are, and the names of its volumes that the canary writes to."""

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
    """All volumes, in the order in which the chains go round them: from member to member, for what is between two of them is to be found out."""
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
    control: Control, targets: Iterable[str], host: str | None, nbd: Address | None
) -> Member:
    """Ask a controller for the volumes that `targets` name and for its NBD address. `host` is where it is (None: this machine).

    `nbd` is the address to use, as it stands, instead of those that it listens on: a tunnel's end may be here. Raises DuplexdError; WrongStateError if a volume has no secondary, ForbiddenError if what volumes hold may not be read.
    """
    query = "&".join(f"target={quote(target)}" for target in targets)
    status = await control.call("GET", f"/v1/status?{query}", timeout_s=ANSWER_SECONDS_MAX)
    controller = status["controller"]
    if controller.get("group_protocol") != GROUP_PROTOCOL:
        raise WrongStateError(
            f"{control.name}: its version {controller.get('version')} takes no part in groups; bring it to one version with the others"
        )
    for volume in status["volumes"]:
        if volume["state"] == "SIMPLEX":
            raise WrongStateError(
                f"{control.name}:{volume['name']} has no secondary, so there is nothing to grade; give it one"
            )
    await _check_permission(control, status["volumes"][0]["name"])
    return Member(
        control,
        _uri(nbd) if nbd else address(control.name, controller["nbd"], host),
        tuple(volume["name"] for volume in status["volumes"]),
    )


async def _check_permission(control: Control, volume: str) -> None:
    """Raise ForbiddenError unless the controller lets us read volumes, which takes the role that grading takes. Asks for a cut that nobody made."""
    with suppress(NotFoundError):
        path = f"/v1/cuts/{secrets.token_hex(8)}/volumes/{quote(volume, safe='')}"
        await control.call_bytes("GET", path, timeout_s=ANSWER_SECONDS_MAX)


def address(name: str, listen: Sequence[str], host: str | None) -> NbdUri:
    """Where to connect to a controller that listens there. Raises ConfigurationError that says what to add."""
    for uri in map(_uri, map(parse_address, listen)):
        if uri.socket:
            if host is None:
                return uri
            continue
        where = (host or "localhost") if uri.host in _EVERY_ADDRESS else uri.host
        if host is None or where not in _THIS_MACHINE:
            return NbdUri(host=where, port=uri.port)
    raise ConfigurationError(
        f'controllers.{name}: its volumes cannot be reached from here (it listens on {", ".join(listen)}); add nbd = "tcp:HOST:PORT"'
    )


def _uri(address: Address) -> NbdUri:
    if isinstance(address, UnixAddress):
        return NbdUri(socket=address.path)
    return NbdUri(host=address.host, port=address.port)
