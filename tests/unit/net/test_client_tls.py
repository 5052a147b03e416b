"""The files of an https controller: each mistake is one line that names key and file."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from duplexd.config.groups_file import ControllerEntry
from duplexd.errors import ConfigurationError, ForbiddenError
from duplexd.net import tls
from tests.support.certificates import Certificates

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Files:
    """`client.pem`, `client.key` and `ca.pem` in `directory`, all as they should be."""

    def __init__(self, directory: Path) -> None:
        self.certificates = Certificates(directory)
        self.certificate, self.key, self.ca = (
            directory / "client.pem",
            directory / "client.key",
            directory / "ca.pem",
        )
        self.certificate.write_bytes(self.certificates.certificate.read_bytes())
        self.key.touch(mode=0o600)
        self.key.write_bytes(self.certificates.key.read_bytes())
        self.ca.write_bytes(self.certificates.client_ca.read_bytes())

    def context(self) -> ssl.SSLContext:
        entry = ControllerEntry(
            url="https://localhost:1", certificate=self.certificate, key=self.key, ca=self.ca
        )
        return tls.client_context(entry, "controllers.beta")


def missing(files: Files) -> None:
    files.key.unlink()


def no_pem(files: Files) -> None:
    files.ca.write_bytes(b"\x30\x82\x01\x0a")


def cut_off(files: Files) -> None:
    files.ca.write_bytes(files.ca.read_bytes()[:200])


def cut_off_certificate(files: Files) -> None:
    files.certificate.write_bytes(files.certificate.read_bytes()[:200])


def exchanged(files: Files) -> None:
    files.certificate, files.key = files.key, files.certificate


def of_another(files: Files) -> None:
    files.certificates.renew_server()
    files.key.write_bytes(files.certificates.key.read_bytes())


def locked(files: Files) -> None:
    key = load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )


def open_to_all(files: Files) -> None:
    files.key.chmod(0o644)


MISTAKES: dict[str, tuple[Callable[[Files], None], str]] = {
    "a key that is not there": (
        missing,
        r"key: '\S+/client\.key' cannot be read: No such file or directory$",
    ),
    "an authority in another format": (
        no_pem,
        r"ca: '\S+/ca\.pem' contains no certificate in PEM format$",
    ),
    "half an authority": (cut_off, r"ca: '\S+/ca\.pem' cannot be used: "),
    "half a certificate": (
        cut_off_certificate,
        r"certificate: '\S+/client\.pem' with the key '\S+/client\.key' cannot be used: ",
    ),
    "key and certificate exchanged": (
        exchanged,
        r"certificate: '\S+/client\.key' contains no certificate in PEM format$",
    ),
    "the key of another": (
        of_another,
        (
            r"key: '\S+/client\.key' does not match the certificate '\S+/client\.pem'; "
            r"configure a matching"
        ),
    ),
    "a key with a passphrase": (
        locked,
        r"key: '\S+/client\.key' is encrypted with a passphrase, .*; .* openssl pkey -in ",
    ),
    "a key that everyone can read": (
        open_to_all,
        (
            r"key: '\S+/client\.key' is a private key that every local user can read \(mode "
            r"0644\), .*chmod o= "
        ),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_names_its_file_alone(tmp_path: Path, mistake: str) -> None:
    make, expected = MISTAKES[mistake]
    files = Files(tmp_path)
    make(files)
    with pytest.raises(ConfigurationError, match=rf"^controllers\.beta\.{expected}"):
        files.context()


def test_files_as_they_should_be_are_accepted(tmp_path: Path) -> None:
    assert Files(tmp_path).context().verify_mode is ssl.CERT_REQUIRED


def test_a_key_in_the_certificates_file_is_as_secret(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    both = certificates.client("backup")
    entry = ControllerEntry(url="https://localhost:1", certificate=both)
    assert tls.client_context(entry, "controllers.beta").minimum_version is ssl.TLSVersion.TLSv1_3
    both.chmod(0o604)
    with pytest.raises(
        ConfigurationError, match=r"^controllers\.beta\.certificate: .* every local user can read"
    ):
        tls.client_context(entry, "controllers.beta")
    only = ControllerEntry(url="https://localhost:1", certificate=certificates.certificate)
    with pytest.raises(
        ConfigurationError,
        match=(
            r"^controllers\.beta\.certificate: .* contains no private key in PEM format; "
            r"add it, or set key = FILE"
        ),
    ):
        tls.client_context(only, "controllers.beta")


def test_a_key_that_may_not_be_read_is_a_matter_of_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(tmp_path)
    read = type(files.key).read_bytes

    def refuse(path: Path) -> bytes:
        if path == files.key:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(type(files.key), "read_bytes", refuse)
    with pytest.raises(
        ForbiddenError,
        match=r"^controllers\.beta\.key: '\S+/client\.key' cannot be read by this user",
    ):
        files.context()
