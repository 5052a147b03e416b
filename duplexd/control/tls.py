"""The server's side of TLS: its certificate, its key, and whom it believes."""

from __future__ import annotations

import ssl
import stat
from typing import TYPE_CHECKING, Protocol

from duplexd.errors import ConfigurationError, ForbiddenError

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


_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_PRIVATE_KEY = b"PRIVATE KEY-----"


def context(files: TlsFiles) -> ssl.SSLContext:
    """TLS 1.2 or later; a client without a certificate that `client_ca` signed does not get in.

    Raises ConfigurationError, or ForbiddenError when only a permission is missing: one line that names the key.
    """
    _pem("control.tls.certificate", files.certificate, _CERTIFICATE, "a certificate")
    _pem("control.tls.key", files.key, _PRIVATE_KEY, "a private key")
    authorities = _pem("control.tls.client_ca", files.client_ca, _CERTIFICATE, "a certificate")
    _refuse_open_key(files.key)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    made.num_tickets = 0  # a certificate is looked at each time: nothing outlives it
    made.verify_mode = ssl.CERT_REQUIRED
    _load_own(made, files)
    try:
        made.load_verify_locations(cadata=authorities.decode("ascii", "replace"))
    except ssl.SSLError as error:
        raise ConfigurationError(f"control.tls.client_ca: {str(files.client_ca)!r} cannot be used: {_reason(error)}") from None
    return made


def _load_own(made: ssl.SSLContext, files: TlsFiles) -> None:
    asked = False

    def passphrase() -> str:
        nonlocal asked
        asked = True
        return ""

    try:
        made.load_cert_chain(files.certificate, files.key, passphrase)
    except (ssl.SSLError, ValueError) as error:
        key, certificate = str(files.key), str(files.certificate)
        if asked:
            told = f"control.tls.key: {key!r} wants a passphrase, and nobody is there to give it; write it without: openssl pkey -in {key}"
        elif isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            told = f"control.tls.key: {key!r} is not the key of the certificate {certificate!r}; give the two that belong together"
        else:
            told = f"control.tls.certificate: {certificate!r} with the key {key!r} cannot be used: {_reason(error)}"
        raise ConfigurationError(told) from None


def _pem(key: str, path: Path, marker: bytes, wanted: str) -> bytes:
    try:
        data = path.read_bytes()
    except PermissionError:
        raise ForbiddenError(f"{key}: {str(path)!r} cannot be read by the daemon's user; change its owner, group or mode") from None
    except OSError as error:
        raise ConfigurationError(f"{key}: {str(path)!r} cannot be read: {error.strerror}") from None
    if marker not in data:
        raise ConfigurationError(f"{key}: {str(path)!r} does not hold {wanted} as PEM text")
    return data


def _refuse_open_key(path: Path) -> None:
    mode = path.stat().st_mode
    if mode & stat.S_IRWXO:
        told = f"{str(path)!r} can be read by everyone on this machine (mode {stat.S_IMODE(mode):04o})"
        raise ConfigurationError(f"control.tls.key: {told}; make a new key, and: chmod 640 {path}")


def _reason(error: Exception) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else "") or str(error)
