"""TLS of the control API, both sides: what a certificate file must be, and the context that is made
of it.

OpenSSL reports a bad file as "[SSL] PEM lib (_ssl.c:4065)", with no name in it. So each file is
looked at before OpenSSL gets it, and every mistake is one line: the key of the configuration, the
file, what is wrong, what to do. Server and client share that; they differ in whom they trust and in
how old a peer may be.

A private key that every local user can read must be considered compromised, and is refused rather
than warned about, because a warning in a log changes nothing. There is no passphrase prompt,
because a daemon has no terminal.
"""

from __future__ import annotations

import contextlib
import ssl
import stat
from typing import TYPE_CHECKING, Protocol

from duplexd.errors import ConfigurationError, ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    class ServerFiles(Protocol):
        """The files of `[control.tls]`."""

        @property
        def certificate(self) -> Path: ...
        @property
        def key(self) -> Path: ...
        @property
        def client_ca(self) -> Path: ...

    class ClientFiles(Protocol):
        """The files of `[controllers.NAME]`. `key` is None if it is in the certificate's file, `ca`
        for the system's.
        """

        @property
        def certificate(self) -> Path | None: ...
        @property
        def key(self) -> Path | None: ...
        @property
        def ca(self) -> Path | None: ...


_CERTIFICATE, _PRIVATE_KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"


def server_context(files: ServerFiles, table: str = "control.tls") -> ssl.SSLContext:
    """TLS 1.2 or later; a client without a certificate that `client_ca` signed is refused.

    Raises ConfigurationError, or ForbiddenError when only a permission is missing: one line that
    names the key.
    """
    _check_own(table, files.certificate, files.key)
    authorities = _pem(f"{table}.client_ca", files.client_ca, _CERTIFICATE, "certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0  # a resumed session would outlive the check of its certificate
    context.verify_mode = ssl.CERT_REQUIRED
    _load_own(context, table, files.certificate, files.key)
    with _usable(f"{table}.client_ca", files.client_ca):
        context.load_verify_locations(cadata=authorities)
    return context


def client_context(files: ClientFiles, table: str) -> ssl.SSLContext:
    """TLS 1.3, for the controller at `table` of the groups file. Raises as `server_context`."""
    if files.certificate is None:
        raise ConfigurationError(f"{table}: an https url needs a certificate; name one and its key")
    _check_own(table, files.certificate, files.key)
    if files.ca is None:
        context = ssl.create_default_context()
    else:
        authorities = _pem(f"{table}.ca", files.ca, _CERTIFICATE, "certificate")
        with _usable(f"{table}.ca", files.ca):
            context = ssl.create_default_context(cadata=authorities)  # and no other authority
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _load_own(context, table, files.certificate, files.key)
    return context


def _check_own(table: str, certificate: Path, key: Path | None) -> None:
    _pem(f"{table}.certificate", certificate, _CERTIFICATE, "certificate")
    if key is None:
        named, key, hint = f"{table}.certificate", certificate, "; add it, or set key = FILE"
    else:
        named, hint = f"{table}.key", ""
    _pem(named, key, _PRIVATE_KEY, "private key", hint)
    _refuse_open_key(named, key)


def _pem(named: str, path: Path, marker: bytes, wanted: str, hint: str = "") -> str:
    """The content of the file, which must contain `wanted`."""
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
        raise ConfigurationError(f"{named}: {str(path)!r} contains no {wanted} in PEM format{hint}")
    return data.decode("ascii", "replace")


def _refuse_open_key(named: str, path: Path) -> None:
    mode = path.stat().st_mode
    if mode & stat.S_IRWXO:
        raise ConfigurationError(
            f"{named}: {str(path)!r} is a private key that every local user can read"
            f" (mode {stat.S_IMODE(mode):04o}), so it must be considered compromised;"
            f" create a new key, then: chmod o= {path}"
        )


def _load_own(context: ssl.SSLContext, table: str, certificate: Path, own_key: Path | None) -> None:
    key, asked = own_key or certificate, False

    def passphrase() -> str:
        nonlocal asked
        asked = True
        return ""

    try:
        context.load_cert_chain(certificate, key, passphrase)
    except (ssl.SSLError, ValueError) as error:
        named = f"{table}.key" if own_key else f"{table}.certificate"
        if asked:
            problem = (
                f"{named}: {str(key)!r} is encrypted with a passphrase,"
                f" which a daemon cannot enter; store it unencrypted: openssl pkey -in {key}"
            )
        elif isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            problem = (
                f"{named}: {str(key)!r} does not match the certificate {str(certificate)!r};"
                " configure a matching pair"
            )
        else:
            problem = (
                f"{table}.certificate: {str(certificate)!r} with the key {str(key)!r}"
                f" cannot be used: {_reason(error)}"
            )
        raise ConfigurationError(problem) from None


@contextlib.contextmanager
def _usable(named: str, path: Path) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"{named}: {str(path)!r} cannot be used: {_reason(error)}"
        ) from None


def _reason(error: Exception) -> str:
    """What OpenSSL says of it, without its own file and line."""
    return (error.reason if isinstance(error, ssl.SSLError) else "") or str(error)
