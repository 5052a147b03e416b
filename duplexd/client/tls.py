"""The client's side of TLS: its certificate, its key, and whom it believes."""

from __future__ import annotations

import ssl
import stat
from typing import TYPE_CHECKING

from duplexd.errors import ConfigurationError, ForbiddenError

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.client.groups import ControllerEntry

_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_PRIVATE_KEY = b"PRIVATE KEY-----"


def context(name: str, entry: ControllerEntry) -> ssl.SSLContext:
    """TLS 1.3, for the controller `name` of the groups file.

    Raises ConfigurationError, or ForbiddenError when only a permission is missing: one line that names the key and its file.
    """
    table = f"controllers.{name}"
    assert entry.certificate is not None
    _check(f"{table}.certificate", entry.certificate, _CERTIFICATE, "a certificate")
    named, key = (f"{table}.key", entry.key) if entry.key else (f"{table}.certificate", entry.certificate)
    _check(named, key, _PRIVATE_KEY, "a private key" if entry.key else "a private key beside the certificate, nor is there a key = FILE")
    _refuse_open_key(named, key)
    if entry.ca:
        _check(f"{table}.ca", entry.ca, _CERTIFICATE, "a certificate")
    try:
        made = ssl.create_default_context(cafile=entry.ca)
    except ssl.SSLError as error:
        raise ConfigurationError(f"{table}.ca: {str(entry.ca)!r} cannot be used: {_reason(error)}") from None
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    _load_own(made, f"{table}.certificate", entry.certificate, named, key)
    return made


def _load_own(made: ssl.SSLContext, table: str, certificate: Path, named: str, key: Path) -> None:
    asked = False

    def passphrase() -> str:
        nonlocal asked
        asked = True
        return ""

    try:
        made.load_cert_chain(certificate, key, passphrase)
    except (ssl.SSLError, ValueError) as error:
        if asked:
            told = f"{named}: {str(key)!r} wants a passphrase, and nobody is asked for it; write it without: openssl pkey -in {key}"
        elif isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            told = f"{named}: {str(key)!r} is not the key of the certificate {str(certificate)!r}; give the two that belong together"
        else:
            told = f"{table}: {str(certificate)!r} with the key {str(key)!r} cannot be used: {_reason(error)}"
        raise ConfigurationError(told) from None


def _check(table: str, path: Path, marker: bytes, wanted: str) -> None:
    try:
        data = path.read_bytes()
    except PermissionError:
        raise ForbiddenError(f"{table}: {str(path)!r} cannot be read by you; change its owner, group or mode, or use sudo") from None
    except OSError as error:
        raise ConfigurationError(f"{table}: {str(path)!r} cannot be read: {error.strerror}") from None
    if marker not in data:
        raise ConfigurationError(f"{table}: {str(path)!r} does not hold {wanted} as PEM text")


def _refuse_open_key(table: str, path: Path) -> None:
    mode = path.stat().st_mode
    if mode & stat.S_IRWXO:
        told = f"{str(path)!r} holds the key and can be read by everyone on this machine (mode {stat.S_IMODE(mode):04o})"
        raise ConfigurationError(f"{table}: {told}; make a new key, and: chmod 600 {path}")


def _reason(error: Exception) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else "") or str(error)
