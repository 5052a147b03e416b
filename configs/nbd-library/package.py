"""NBD for asyncio: a client and a server; the protocol without I/O is in `duplexd_nbd.nbd`."""

from __future__ import annotations

from .nbd.client import NotOfferedError
from .nbd.constants import STATE_HOLE, STATE_ZERO
from .nbd_aio.connecting import connect, list_exports
from .nbd_aio.nbd_disk import Disk
from .nbd_aio.request_error import ExportRefusedError, RequestError
from .nbd_aio.served_export import Export
from .nbd_aio.server_bounds import ServerBounds
from .nbd_aio.serving import Server, serve

__all__ = [
    "STATE_HOLE",
    "STATE_ZERO",
    "Disk",
    "Export",
    "ExportRefusedError",
    "NotOfferedError",
    "RequestError",
    "Server",
    "ServerBounds",
    "connect",
    "list_exports",
    "serve",
]
