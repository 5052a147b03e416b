"""The server's side of TLS: its certificate, its key, and whom it believes."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Protocol

from duplexd.errors import ConfigurationError
from duplexd.net.tls_files import CERTIFICATE, PRIVATE_KEY, load_own, pem, reason, refuse_open_key

if TYPE_CHECKING:
    from pathlib import Path

    class TlsFiles(Protocol):
        """The files of `[control.tls]`."""

        @property
        def certificate(self) -> Path: ...
        @property
        def key(self) -> Path: ...
        @property
        def client_ca(self) -> Path: ...


def context(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.2 or later; a client without a certificate that `client_ca` signed does not get in.

    Raises ConfigurationError, or ForbiddenError when only a permission is missing: one line that names the key.
    """
    pem("control.tls.certificate", files.certificate, CERTIFICATE, "a certificate")
    pem("control.tls.key", files.key, PRIVATE_KEY, "a private key")
    authorities = pem("control.tls.client_ca", files.client_ca, CERTIFICATE, "a certificate")
    refuse_open_key("control.tls.key", files.key)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    made.num_tickets = 0  # a certificate is looked at each time: nothing outlives it
    made.verify_mode = ssl.CERT_REQUIRED
    load_own(made, "control.tls.certificate", files.certificate, "control.tls.key", files.key)
    try:
        made.load_verify_locations(cadata=authorities.decode("ascii", "replace"))
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"control.tls.client_ca: {str(files.client_ca)!r} cannot be used: {reason(error)}"
        ) from None
    return made
