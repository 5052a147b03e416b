"""The client's side of TLS: its certificate, its key, and whom it believes."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from duplexd.errors import ConfigurationError
from duplexd.net.tls_files import CERTIFICATE, PRIVATE_KEY, load_own, pem, reason, refuse_open_key

if TYPE_CHECKING:
    from duplexd.config.groups import Place


def context(name: str, entry: Place) -> ssl.SSLContext:
    """TLS 1.3, for the controller `name` of the groups file.

    Raises ConfigurationError, or ForbiddenError when only a permission is missing: one line that names the key and its file.
    """
    table = f"controllers.{name}"
    assert entry.certificate is not None
    pem(f"{table}.certificate", entry.certificate, CERTIFICATE, "a certificate")
    named, key = (
        (f"{table}.key", entry.key) if entry.key else (f"{table}.certificate", entry.certificate)
    )
    pem(
        named,
        key,
        PRIVATE_KEY,
        "a private key"
        if entry.key
        else "a private key beside the certificate, nor is there a key = FILE",
    )
    refuse_open_key(named, key)
    if entry.ca:
        pem(f"{table}.ca", entry.ca, CERTIFICATE, "a certificate")
    try:
        made = ssl.create_default_context(cafile=entry.ca)
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"{table}.ca: {str(entry.ca)!r} cannot be used: {reason(error)}"
        ) from None
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    load_own(made, f"{table}.certificate", entry.certificate, named, key)
    return made
