"""TLS sessions: which suites there are, and that none outlives the certificate it began with."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from duplexd.net import tls
from tests.support.certificates import HOST, Certificates

if TYPE_CHECKING:
    from pathlib import Path


class Pair:
    """Both ends of a connection in memory."""

    def __init__(
        self, server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None
    ) -> None:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(up, down, server_side=True)
        self.client = client.wrap_bio(down, up, server_hostname=HOST, session=session)

    def shake_hands(self) -> Pair:
        for _ in range(4):
            for end in (self.client, self.server):
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        return self


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def client_of(
    certificates: Certificates, path: Path, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
) -> ssl.SSLContext:
    context = certificates.context(path)
    context.minimum_version = context.maximum_version = version
    return context


def test_a_session_resumed_after_the_end_of_its_certificate_is_refused(
    certificates: Certificates,
) -> None:
    now = time.time()
    server = tls.server_context(certificates, now=lambda: now)
    expires = datetime.now(UTC) + timedelta(hours=1)
    client = client_of(certificates, certificates.client("backup", expires=expires))
    first = Pair(server, client).shake_hands()  # whose session is forgotten at its end
    session = first.client.session
    again = Pair(server, client, session).shake_hands()
    assert again.server.session_reused

    now += 2 * 3600
    with pytest.raises(ssl.SSLError, match="the resumed session has expired"):
        Pair(server, client, session).shake_hands()


def test_tls_1_3_gives_no_tickets(certificates: Certificates) -> None:
    server = tls.server_context(certificates)
    client = client_of(certificates, certificates.client("backup"), ssl.TLSVersion.TLSv1_3)
    pair = Pair(server, client).shake_hands()
    pair.server.write(b"x")
    assert pair.client.read(1) == b"x"
    assert pair.client.session is None or not pair.client.session.has_ticket


def test_cbc_suites_are_off(certificates: Certificates) -> None:
    client = client_of(certificates, certificates.client("backup"))
    client.set_ciphers("ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-SHA256")
    with pytest.raises(ssl.SSLError):
        Pair(tls.server_context(certificates), client).shake_hands()


def test_every_suite_encrypts_and_authenticates_at_once(certificates: Certificates) -> None:
    names = [suite["name"] for suite in tls.server_context(certificates).get_ciphers()]
    assert names
    assert all("GCM" in name or "POLY1305" in name for name in names), names


@pytest.mark.parametrize(
    ("clients", "presents", "accepted"),
    [
        (tls.REQUIRED, True, True),
        (tls.REQUIRED, False, False),
        (tls.OPTIONAL, True, True),
        (tls.OPTIONAL, False, True),
        (tls.NONE, False, True),
    ],
)
def test_whether_a_client_needs_a_certificate(
    certificates: Certificates, clients: str, presents: bool, accepted: bool
) -> None:
    server = tls.server_context(certificates, clients=clients)
    client = certificates.context(certificates.client("backup") if presents else None)
    if accepted:
        assert bool(Pair(server, client).shake_hands().server.getpeercert()) == presents
    else:
        with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
            Pair(server, client).shake_hands()
