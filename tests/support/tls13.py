"""Records of TLS 1.3 that no library sends on demand, made of a connection's secrets.

A client's context writes its secrets to a file (`keylog_filename`); RFC 8446 says what keys come
from them (7.1 to 7.3) and how a record is protected (5.2).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

if TYPE_CHECKING:
    import ssl

HANDSHAKE, APPLICATION_DATA = 22, 23  # types of content
KEY_UPDATE = b"\x18\x00\x00\x01\x00"  # the other side need not do so, too
_SECRET, _KEY, _NONCE = 48, 32, 12  # bytes, with AES-256 and SHA-384


class Records:
    """What a client sends after its handshake, in order, before its library has sent anything."""

    def __init__(self, context: ssl.SSLContext) -> None:
        (secret,) = (
            bytes.fromhex(line.split()[2])
            for line in Path(context.keylog_filename).read_text().splitlines()
            if line.startswith("CLIENT_TRAFFIC_SECRET_0 ")
        )
        assert len(secret) == _SECRET, "the test knows one cipher"
        self._use(secret)

    def data(self, data: bytes) -> bytes:
        """A record of data."""
        return self._protect(data, APPLICATION_DATA)

    def key_update(self) -> bytes:
        """A record that leaves the other side nothing to read."""
        record = self._protect(KEY_UPDATE, HANDSHAKE)
        self._use(_expand(self._secret, b"traffic upd", _SECRET))
        return record

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._key = AESGCM(_expand(secret, b"key", _KEY))
        self._nonce = int.from_bytes(_expand(secret, b"iv", _NONCE))
        self._sent = 0

    def _protect(self, content: bytes, kind: int) -> bytes:
        content += bytes([kind])
        head = bytes([APPLICATION_DATA, 3, 3]) + (len(content) + 16).to_bytes(2)
        nonce = (self._nonce ^ self._sent).to_bytes(_NONCE)
        self._sent += 1
        return head + self._key.encrypt(nonce, content, head)


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    label = b"tls13 " + label
    info = length.to_bytes(2) + bytes([len(label)]) + label + b"\0"
    return HKDFExpand(SHA384(), length, info).derive(secret)
