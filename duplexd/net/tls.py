"""TLS of the control API, both sides, and of NBD: what a certificate file must be, and the context
that is made of it.

OpenSSL reports a bad file as "[SSL] PEM lib (_ssl.c:4065)", with no name in it. So each file is
looked at before OpenSSL gets it, and every mistake is one line: the key of the configuration, the
file, what is wrong, what to do. Server and client share that; they differ in whom they trust and in
how old a peer may be.

A private key that every local user can read must be considered compromised, and is refused rather
than warned about, because a warning in a log changes nothing. There is no passphrase prompt,
because a daemon has no terminal.

A session that is resumed skips the check of the certificate. TLS 1.3 resumes by tickets, which are
off. TLS 1.2 also has session numbers, and Python cannot turn off OpenSSL's cache of those. So the
end of a handshake (`_verified`) looks again at the certificate of a resumed session.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import stat
import time
from typing import TYPE_CHECKING, Protocol

from duplexd.errors import ConfigurationError, ForbiddenError
from duplexd.net.certificate_names import valid_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    class ServerFiles(Protocol):
        """The files of `[control.tls]` or `[nbd.tls]`. Without `client_ca` no client is
        verified.
        """

        @property
        def certificate(self) -> Path: ...
        @property
        def key(self) -> Path: ...
        @property
        def client_ca(self) -> Path | None: ...

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


# Of TLS 1.2: forward secrecy and authenticated encryption only, so no CBC suites. TLS 1.3 has no
# others.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
REQUIRED, OPTIONAL, NONE = "required", "optional", "none"  # certificates of clients
_VERIFY_MODES = {
    REQUIRED: ssl.CERT_REQUIRED,
    OPTIONAL: ssl.CERT_OPTIONAL,
    NONE: ssl.CERT_NONE,
}
_CERTIFICATES = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_CERTIFICATE, _PRIVATE_KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"


def _verified(now: Callable[[], float]) -> type[ssl.SSLObject]:
    """The server's side of a connection, by this clock."""

    class Verified(ssl.SSLObject):
        """No session goes on after the certificate that it began with."""

        def do_handshake(self) -> None:
            """Raises as `ssl.SSLObject`; and for a resumed session with an expired certificate."""
            super().do_handshake()
            until = valid_until(self.getpeercert() or {}) if self.session_reused else None
            if until is not None and until <= now():
                raise ssl.SSLError(1, "the certificate of the resumed session has expired")

    return Verified


def server_context(
    files: ServerFiles,
    table: str = "control.tls",
    clients: str = REQUIRED,
    now: Callable[[], float] = time.time,
) -> ServerContext:
    """TLS 1.2 or later. `clients`: whether a client must have a certificate that `client_ca`
    signed. One that it did not sign is refused in any case.

    Raises ConfigurationError, or ForbiddenError when only a permission is missing: one line that
    names the key.
    """
    _check_own(table, files.certificate, files.key)
    authorities = ""
    if files.client_ca is not None:
        authorities = _pem(f"{table}.client_ca", files.client_ca, _CERTIFICATE, "certificate")
    context = bare_context(now)
    context.verify_mode = _VERIFY_MODES[clients]
    _load_own(context, table, files.certificate, files.key)
    if files.client_ca is not None:
        with _usable(f"{table}.client_ca", files.client_ca):
            context.load_verify_locations(cadata=authorities)
            context.authorities = _certificates(authorities)
    return context


class ServerContext(ssl.SSLContext):
    """Knows what clients are verified by. `get_ca_certs` leaves out a certificate that is not an
    authority: that of a client, which it may have signed itself, is trusted if it is in the file.
    """

    authorities: frozenset[bytes] = frozenset()


def _certificates(pem: str) -> frozenset[bytes]:
    return frozenset(map(ssl.PEM_cert_to_DER_cert, _CERTIFICATES.findall(pem)))


def bare_context(now: Callable[[], float] = time.time) -> ServerContext:
    """A server's, without a certificate yet."""
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0  # a resumed session would outlive the check of its certificate
    context.set_ciphers(CIPHERS)
    context.sslobject_class = _verified(now)
    return context


def authorities(context: ssl.SSLContext | None) -> frozenset[bytes]:
    """Those that a server verifies the certificates of its clients by."""
    return context.authorities if isinstance(context, ServerContext) else frozenset()


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
