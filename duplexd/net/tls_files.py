"""Certificates and keys in files, of the control plane's server and of its clients: what is wrong with one is a line that names it."""

from __future__ import annotations

import ssl
import stat
from typing import TYPE_CHECKING

from duplexd.errors import ConfigurationError, ForbiddenError

if TYPE_CHECKING:
    from pathlib import Path

CERTIFICATE, PRIVATE_KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"


def pem(named: str, path: Path, marker: bytes, wanted: str) -> bytes:
    """What the file holds, which has to be `wanted`. `named` is the key of the configuration that gives the path.

    Raises ConfigurationError, or ForbiddenError when only a permission is missing, as all here.
    """
    try:
        data = path.read_bytes()
    except PermissionError:
        raise ForbiddenError(
            f"{named}: {str(path)!r} cannot be read by this user; change its owner, group or mode"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"{named}: {str(path)!r} cannot be read: {error.strerror}"
        ) from None
    if marker not in data:
        raise ConfigurationError(f"{named}: {str(path)!r} does not hold {wanted} as PEM text")
    return data


def refuse_open_key(named: str, path: Path) -> None:
    """A key that everyone can read is one no more."""
    mode = path.stat().st_mode
    if mode & stat.S_IRWXO:
        told = f"{str(path)!r} holds the key and can be read by everyone on this machine (mode {stat.S_IMODE(mode):04o})"
        raise ConfigurationError(f"{named}: {told}; make a new key, and: chmod o= {path}")


def load_own(
    context: ssl.SSLContext, named: str, certificate: Path, named_key: str, key: Path
) -> None:
    """Give the context its certificate and key."""
    asked = False

    def passphrase() -> str:
        nonlocal asked
        asked = True
        return ""

    try:
        context.load_cert_chain(certificate, key, passphrase)
    except (ssl.SSLError, ValueError) as error:
        if asked:
            told = f"{named_key}: {str(key)!r} wants a passphrase, and nobody is asked for it; write it without: openssl pkey -in {key}"
        elif isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            told = f"{named_key}: {str(key)!r} is not the key of the certificate {str(certificate)!r}; give the two that belong together"
        else:
            told = f"{named}: {str(certificate)!r} with the key {str(key)!r} cannot be used: {reason(error)}"
        raise ConfigurationError(told) from None


def reason(error: Exception) -> str:
    """What OpenSSL says of it, without its own file and line."""
    return (error.reason if isinstance(error, ssl.SSLError) else "") or str(error)
