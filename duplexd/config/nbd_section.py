"""`[nbd]`: where clients connect, and who may.

A listener that is only an address is a text in `listen`; one of which more is said is a table
`[[nbd.listeners]]`. `NbdConfig.places` gives both in one form, with every default filled in, so
that nothing else needs to know that there are two.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr, model_validator

from duplexd.config.fields import FilePath, ListenAddress, Section
from duplexd.config.values import check_mode
from duplexd.net.address import Address, TcpAddress
from duplexd.net.allow import Entry, parse_allow
from duplexd.net.listen import UNIX_SOCKET_MODE

AllowEntry = Annotated[Entry, BeforeValidator(parse_allow)]
AllowList = Annotated[list[AllowEntry], Field(min_length=1)]
Mode = Annotated[int, BeforeValidator(check_mode)]
GroupName = Annotated[StrictStr, Field(min_length=1)]
Tls = Literal["off", "optional", "required"]
Clients = Literal["required", "optional", "none"]

ALLOW_EXAMPLES = ['["certificate:backup.example", "address:10.0.0.0/8", "group:backup"]']
OTHERS_WRITE = 0o002  # of the mode of a socket: every local user may connect


class NbdTlsConfig(Section):
    """`[nbd.tls]`: what TLS begins with, on every listener that has it."""

    certificate: FilePath = Field(examples=['"server.pem"'])
    key: FilePath = Field(examples=['"server.key"'])
    client_ca: FilePath | None = Field(default=None, examples=['"clients.pem"'])
    clients: Clients | None = Field(default=None, examples=['"required"'])

    @model_validator(mode="before")
    @classmethod
    def _no_shared_keys(cls, table: object) -> object:
        """NBD servers of others have them, so they are looked for here, too."""
        if isinstance(table, dict) and any(str(key).startswith("psk") for key in table):
            raise ValueError(
                "pre-shared keys (psk) are not offered: Python's ssl has them for servers from"
                " 3.13 on only; use certificates, and client_ca for those of clients"
            )
        return table

    @property
    def clients_need(self) -> Clients:
        """Whether a client needs a certificate; by default if there is an authority for them."""
        return self.clients or ("required" if self.client_ca is not None else "none")


class ListenerConfig(Section):
    """`[[nbd.listeners]]`: an address, and what is said of it."""

    address: ListenAddress = Field(examples=['"tcp:0.0.0.0:10809"'])
    tls: Tls | None = Field(default=None, examples=['"required"'])
    allow: AllowList | None = Field(default=None, examples=ALLOW_EXAMPLES)
    read_only: StrictBool = Field(default=False, examples=["true"])
    insecure: StrictBool = Field(default=False, examples=["true"])
    group: GroupName | None = Field(default=None, examples=['"storage"'])
    mode: Mode | None = Field(default=None, examples=['"0660"'])


class Place(Section):
    """A listener with every default filled in, and the key that names it."""

    key: str
    address: Address
    tls: Tls
    allow: list[Entry] | None
    read_only: bool
    insecure: bool
    group: str | None
    mode: int


class NbdConfig(Section):
    """`[nbd]`. Without an address it serves the sockets that a service manager passes to it."""

    listen: list[ListenAddress] = Field(
        default_factory=list, min_length=1, examples=['["unix:/run/duplexd/alpha/nbd.sock"]']
    )
    listeners: list[ListenerConfig] = Field(default_factory=list)
    insecure: StrictBool = Field(default=False, examples=["true"])
    group: GroupName | None = Field(default=None, examples=['"storage"'])
    mode: Mode = Field(default=UNIX_SOCKET_MODE, examples=['"0660"'])
    default: StrictStr | None = Field(default=None, min_length=1, examples=['"data"'])
    connections_per_peer: StrictInt | None = Field(default=None, ge=1, examples=["64"])
    connections_per_volume: StrictInt | None = Field(default=None, ge=1, examples=["64"])
    tls: NbdTlsConfig | None = Field(
        default=None, examples=['{ certificate = "server.pem", key = "server.key" }']
    )

    @property
    def places(self) -> list[Place]:
        """All listeners."""
        plain = [
            self.place(ListenerConfig.model_construct(address=address), f"nbd.listen[{index}]")
            for index, address in enumerate(self.listen)
        ]
        return plain + [
            self.place(listener, f"nbd.listeners[{index}]")
            for index, listener in enumerate(self.listeners)
        ]

    def place(self, listener: ListenerConfig, key: str) -> Place:
        """One of them."""
        by_default: Tls = "off"
        if self.tls is not None and isinstance(listener.address, TcpAddress):
            by_default = "required"
        return Place.model_construct(
            key=key,
            address=listener.address,
            tls=listener.tls or by_default,
            allow=listener.allow,
            read_only=listener.read_only,
            insecure=listener.insecure or self.insecure,
            group=listener.group or self.group,
            mode=self.mode if listener.mode is None else listener.mode,
        )

    @property
    def addresses(self) -> list[Address]:
        """Of all listeners."""
        return [*self.listen, *(listener.address for listener in self.listeners)]
