"""The files of `[control.tls]`: each mistake is one line that names the key."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trustme

from duplexd.config.load import parse
from duplexd.daemon.preflight import Problem, look
from duplexd.errors import ConfigurationError, ForbiddenError
from duplexd.net import tls
from tests.support.certificates import Certificates

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from duplexd.config.daemon_file import Config, TlsConfig


def locked(certificates: Certificates) -> None:
    """The key with a passphrase."""
    from cryptography.hazmat.primitives import serialization as pem  # noqa: PLC0415

    key = pem.load_pem_private_key(certificates.key.read_bytes(), None)
    encryption = pem.BestAvailableEncryption(b"secret")
    certificates.key.write_bytes(
        key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, encryption)
    )


def garbled(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "AAAA" + lines[1][4:], *lines[2:]]))


def other_key(certificates: Certificates) -> None:
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(str(certificates.key))


MISTAKES: dict[str, tuple[Callable[[Certificates], object], str]] = {
    "no certificate": (
        lambda it: it.certificate.unlink(),
        "certificate: {dir}/server.pem' cannot be read: No such file or directory",
    ),
    "certificate is not PEM": (
        lambda it: it.certificate.write_text("x"),
        "certificate: {dir}/server.pem' contains no certificate in PEM format",
    ),
    "certificate is garbled": (
        lambda it: garbled(it.certificate),
        "certificate: {dir}/server.pem' with the key {dir}/server.key' cannot be used: ",
    ),
    "no key": (
        lambda it: it.key.unlink(),
        "key: {dir}/server.key' cannot be read: No such file or directory",
    ),
    "key is not PEM": (
        lambda it: it.key.write_text(""),
        "key: {dir}/server.key' contains no private key in PEM format",
    ),
    "key of another": (
        other_key,
        (
            "key: {dir}/server.key' does not match the certificate {dir}/server.pem'; "
            "configure a matching pair"
        ),
    ),
    "key with a passphrase": (
        locked,
        (
            "key: {dir}/server.key' is encrypted with a passphrase, which a daemon cannot "
            "enter; store it unencrypted: openssl pkey"
        ),
    ),
    "key for everyone": (
        lambda it: it.key.chmod(0o644),
        (
            "key: {dir}/server.key' is a private key that every local user can read (mode "
            "0644), so it must be considered compromised; create a new"
        ),
    ),
    "no authority": (
        lambda it: it.client_ca.unlink(),
        "client_ca: {dir}/clients.pem' cannot be read: No such file or directory",
    ),
    "authority is not PEM": (
        lambda it: it.client_ca.write_text("x"),
        "client_ca: {dir}/clients.pem' contains no certificate in PEM format",
    ),
    "authority is garbled": (
        lambda it: garbled(it.client_ca),
        "client_ca: {dir}/clients.pem' cannot be used: ",
    ),
}


def config(certificates: Certificates) -> Config:
    text = (
        '[controller]\nname = "a"\nstate_dir = "state"\n[nbd]\nlisten = '
        '["unix:n"]\n[control]\nsocket = "c"\n'
    )
    return parse(text + certificates.toml(10810, operate=("a",)), certificates.directory / "f.toml")


def settings(certificates: Certificates) -> TlsConfig:
    tls_settings = config(certificates).control.tls
    assert tls_settings
    return tls_settings


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_with_its_key(case: str, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    own = config(certificates)
    assert look(own) == []
    spoil, expected = MISTAKES[case]
    spoil(certificates)
    (problem,) = look(own)
    assert problem.line.startswith("control.tls." + expected.replace("{dir}", f"'{tmp_path}")), (
        problem.line
    )
    assert not problem.forbidden
    with pytest.raises(ConfigurationError) as caught:
        tls.server_context(settings(certificates))
    assert str(caught.value) == problem.line


def test_an_expired_certificate_of_the_daemon_does_not_keep_it_from_starting(
    tmp_path: Path,
) -> None:
    certificates = Certificates(tmp_path)
    certificates.renew_server(expires=datetime.now(UTC) - timedelta(days=1))
    assert look(config(certificates)) == []


def test_a_file_that_may_not_be_read_is_a_matter_of_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = Certificates(tmp_path)
    read = type(certificates.key).read_bytes

    def refuse(path: Path) -> bytes:
        if path == certificates.key:
            raise PermissionError(13, os.strerror(13))
        return read(path)

    monkeypatch.setattr(type(certificates.key), "read_bytes", refuse)
    line = (
        f"control.tls.key: '{certificates.key}' cannot be read by this user; change its "
        "owner, group or mode"
    )
    assert look(config(certificates)) == [Problem(line, forbidden=True)]
    with pytest.raises(ForbiddenError):
        tls.server_context(settings(certificates))


def test_all_that_clients_are_verified_by_is_known(tmp_path: Path) -> None:
    """A client's own certificate, too, which OpenSSL trusts if the client has signed it itself."""
    certificates = Certificates(tmp_path)
    first = tls.server_context(certificates)
    client = certificates.authority.issue_cert("backup").cert_chain_pems[0]
    certificates.client_ca.write_bytes(certificates.client_ca.read_bytes() + client.bytes())
    both = tls.server_context(certificates)
    added = tls.authorities(both) - tls.authorities(first)
    assert added == {ssl.PEM_cert_to_DER_cert(client.bytes().decode())}
    assert tls.authorities(first) < tls.authorities(both)
    assert tls.authorities(None) == frozenset()
