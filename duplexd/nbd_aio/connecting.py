"""Opening a client's connection: socket, TLS, handshake, all within one time limit."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, cast

from ..nbd.client import NbdClient
from ..nbd.constants import CONTEXT_ALLOCATION
from ..nbd.uri import NbdUri, parse_uri
from .nbd_disk import Disk

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

CONNECT_SECONDS_MAX = 10.0


def connect(
    uri: str | NbdUri,
    *,
    tls: ssl.SSLContext | None = None,
    server_hostname: str = "",
    structured: bool = True,
    contexts: Sequence[str] = (CONTEXT_ALLOCATION,),
) -> Opening:
    """Connect to an export.

        async with connect(uri) as disk: ...
        disk = await connect(uri)

    An address with `nbds` is connected to by TLS, and by nothing else; `tls` is the system's
    default context if it is not given, and verifies `server_hostname`, which is the host of the
    address if it is not given ("localhost" for a Unix socket). `structured` replies and metadata
    `contexts` are asked for, and done without if the server does not have them: `disk.contexts`
    says.

    Raises OSError: ConnectionError if the peer is no NBD server, ExportRefusedError if it does not
    give the export, TimeoutError after CONNECT_SECONDS_MAX; and ValueError for a bad address.
    """
    where = parse_uri(uri) if isinstance(uri, str) else uri
    if tls is not None and not where.tls:
        raise ValueError(f"{where}: TLS needs an address that begins with nbds; or leave out tls")
    client = NbdClient(where.export, tls=where.tls, structured=structured, contexts=contexts)
    return Opening(where, client, tls, server_hostname)


async def list_exports(
    uri: str | NbdUri, *, tls: ssl.SSLContext | None = None, server_hostname: str = ""
) -> list[str]:
    """The names of the exports of a server. As `connect`; the export of the address is ignored."""
    where = parse_uri(uri) if isinstance(uri, str) else uri
    client = NbdClient(list_exports=True, tls=where.tls)
    disk = await Opening(where, client, tls, server_hostname)
    await disk.close()
    return client.exports


class Opening:
    """A connection that is opened when it is awaited, or entered."""

    def __init__(
        self, uri: NbdUri, client: NbdClient, tls: ssl.SSLContext | None, server_hostname: str
    ) -> None:
        self._uri = uri
        self._client = client
        self._tls = tls
        self._server_hostname = server_hostname or uri.host
        self._disk: Disk | None = None

    def __await__(self) -> Generator[None, None, Disk]:
        return self._open().__await__()

    async def __aenter__(self) -> Disk:
        self._disk = await self._open()
        return self._disk

    async def __aexit__(self, *_: object) -> None:
        if self._disk is not None:
            await self._disk.close()

    async def _open(self) -> Disk:
        disk = Disk(self._client)
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                await self._negotiate(disk)
        except BaseException as error:
            disk.abort()
            if isinstance(error, TimeoutError):
                limit = f"{CONNECT_SECONDS_MAX:.0f} s"
                raise TimeoutError(f"{self._uri}: no answer within {limit}") from None
            raise
        return disk

    async def _negotiate(self, disk: Disk) -> None:
        loop = asyncio.get_running_loop()
        uri = self._uri
        if uri.socket:
            transport, _ = await loop.create_unix_connection(lambda: disk, uri.socket)
        else:
            transport, _ = await loop.create_connection(lambda: disk, uri.host, uri.port)
        await disk.haggled
        if self._client.wants_tls:
            context = self._tls or ssl.create_default_context()
            secure = await loop.start_tls(
                transport, disk, context, server_hostname=self._server_hostname
            )
            disk.secured(cast("asyncio.Transport", secure))
            await disk.haggled
