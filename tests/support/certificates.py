"""Certificates for tests: an authority of their own, a server's certificate for this machine,
clients' by name.
"""

from __future__ import annotations

import http.client
import json
import ssl
from typing import TYPE_CHECKING, Any

import trustme

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

HOST = "127.0.0.1"
JSON_TYPES = {"application/json", "application/problem+json"}


class Certificates:
    """Files in `directory`: `server.pem`, `server.key`, `clients.pem` and one file for each client
    that is asked for.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = trustme.CA()
        self.client_ca = directory / "clients.pem"
        self.authority.cert_pem.write_to_path(str(self.client_ca))
        self.certificate = directory / "server.pem"
        self.key = directory / "server.key"
        self.renew_server()

    def renew_server(self, *names: str, expires: datetime | None = None) -> None:
        """A new certificate and key for the server, for `names` or for this machine."""
        issued = self.authority.issue_cert(*(names or ("localhost", HOST)), not_after=expires)
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.touch(mode=0o600)
        issued.private_key_pem.write_to_path(str(self.key))

    def client(
        self,
        name: str,
        authority: trustme.CA | None = None,
        expires: datetime | None = None,
        alternative: str = "",
    ) -> Path:
        """Key and certificate of a client with this common name, in one file."""
        issued = (authority or self.authority).issue_cert(
            *filter(None, [alternative]), common_name=name or None, not_after=expires
        )
        path = self.directory / f"client-{len(list(self.directory.iterdir()))}.pem"
        path.touch(mode=0o600)
        issued.private_key_and_cert_chain_pem.write_to_path(str(path))
        return path

    def context(self, client: Path | None) -> ssl.SSLContext:
        """What a careful client uses: it verifies the server, and its name."""
        made = ssl.create_default_context(cafile=self.client_ca)
        if client is not None:
            made.load_cert_chain(client)
        return made

    def settings(
        self, port: int, operate: tuple[str, ...] = (), observe: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """The keys of `[control.tls]`."""
        files = {
            "certificate": str(self.certificate),
            "key": str(self.key),
            "client_ca": str(self.client_ca),
        }
        return {
            "listen": [f"{HOST}:{port}"],
            **files,
            "operate": list(operate),
            "observe": list(observe),
        }

    def toml(self, port: int, operate: tuple[str, ...] = (), observe: tuple[str, ...] = ()) -> str:
        """The table `[control.tls]`."""
        lines = [
            f"{key} = {json.dumps(value)}"
            for key, value in self.settings(port, operate, observe).items()
        ]
        return "\n".join(["[control.tls]", *lines])


def open_answer(
    port: int,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: object = None,
    host: str = HOST,
) -> http.client.HTTPResponse:
    """Send a request on a connection of its own; the answer's body is yet to be read. Close it with
    `with`.
    """
    connection = http.client.HTTPSConnection(host, port, timeout=60, context=context)
    try:
        connection.request(
            method, path, None if body is None else json.dumps(body), {"Connection": "close"}
        )
        return connection.getresponse()
    finally:
        connection.close()  # the answer keeps the socket until it is closed itself


def ask(
    port: int, context: ssl.SSLContext, method: str, path: str, body: object = None
) -> tuple[int, Any]:
    """(status, body), parsed if it is one JSON object."""
    with open_answer(port, context, method, path, body) as answer:
        data = answer.read()
    return answer.status, json.loads(
        data
    ) if data and answer.headers.get_content_type() in JSON_TYPES else data
