"""Addresses of volumes, and what must not change while a device is there."""

from __future__ import annotations

import socket

import pytest

from duplexd.attach.export import Connection, Promised, address_of
from duplexd.errors import UsageError
from duplexd.nbd.uri import NbdUri

IDENTITY = "duplexd volume data, lineage 6450f1c2a9b40"
FLAGS = 0x12C  # flush, FUA, trim, several connections


@pytest.mark.parametrize(
    ("volume", "path", "expected"),
    [
        ("data", "/run/nbd.sock", NbdUri("data", "/run/nbd.sock")),
        ("data@latest", "/run/nbd.sock", NbdUri("data@latest", "/run/nbd.sock")),
        ("nbd+unix:///data?socket=/run/nbd.sock", "", NbdUri("data", "/run/nbd.sock")),
        ("nbd://db1:10810/data", "", NbdUri("data", host="db1", port=10810)),
    ],
)
def test_a_volume_is_a_name_at_a_socket_or_a_uri(volume: str, path: str, expected: NbdUri) -> None:
    assert address_of(volume, path) == expected


@pytest.mark.parametrize(
    ("volume", "path", "words"),
    [
        ("data", "", "--socket PATH"),
        ("nbds://db1/data", "", "does not speak TLS"),
        ("http://db1/data", "", "not an NBD address"),
        ("nbd://db1/data", "/run/nbd.sock", "--socket is for"),
    ],
)
def test_other_addresses_are_refused_with_what_to_write(volume: str, path: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        address_of(volume, path)


def test_the_kernel_keeps_what_it_was_told_as_a_text_that_is_read_back() -> None:
    promised = Promised(IDENTITY, 1 << 40, FLAGS, 16)
    assert Promised.parse(str(promised)) == promised
    assert str(promised) == f"{IDENTITY}; 1099511627776 bytes, flags 300, connections 16"


@pytest.mark.parametrize("backend", ["", "something else", f"{IDENTITY}; 12 bytes"])
def test_what_others_told_the_kernel_is_not_ours(backend: str) -> None:
    assert Promised.parse(backend) is None


@pytest.mark.parametrize(
    ("size", "flags", "identity", "words"),
    [
        (4096, FLAGS, IDENTITY, ""),
        (4096, FLAGS | 1 << 6, IDENTITY, ""),  # zeroes, which the driver does not use
        (8192, FLAGS, IDENTITY, ""),  # it has grown
        (2048, FLAGS, IDENTITY, "has 2048 bytes, the device 4096"),
        (4096, FLAGS | 2, IDENTITY, "flags 302, they were 300"),
        (4096, FLAGS, IDENTITY + "1", "not the volume as it was"),
    ],
)
def test_a_connection_is_compared_with_what_the_kernel_was_told(
    size: int, flags: int, identity: str, words: str
) -> None:
    promised = Promised(IDENTITY, 4096, FLAGS, 2)
    with socket.socket() as sock:
        why = promised.broken_by(Connection(sock, size, flags, 512, identity), 4096)
    assert (words in why) if words else not why
