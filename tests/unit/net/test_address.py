"""Addresses: what each form of text means, and what is said of text that has none."""

from __future__ import annotations

import pytest

from duplexd.net.address import (
    Address,
    TcpAddress,
    UnixAddress,
    UrlAddress,
    parse_address,
    parse_host_port,
    parse_url,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/nbd.sock", UnixAddress("/run/nbd.sock")),
        ("unix:relative:with:colons", UnixAddress("relative:with:colons")),
        ("tcp:127.0.0.1:10809", TcpAddress("127.0.0.1", 10809)),
        ("tcp:[::1]:0", TcpAddress("::1", 0)),
        ("tcp:[fe80::1%eth0]:5", TcpAddress("fe80::1%eth0", 5)),
        ("tcp:localhost:1", TcpAddress("localhost", 1)),
    ],
)
def test_text_and_address_are_one_to_one(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["127.0.0.1:10810", "[::]:65535", "db.example:1"])
def test_host_and_port_without_a_kind_are_tcp(text: str) -> None:
    assert parse_host_port(text) == parse_address(f"tcp:{text}")
    assert parse_host_port(text).authority == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "unix",
        "tcp:",
        "tcp:10809",
        "tcp::10809",
        "tcp:h:",
        "tcp:h:x",
        "tcp:h:-1",
        "tcp:h:٣",
        "tcp:[h]:1",
        "tcp:a:b:1",
        "udp:h:1",
        5,
    ],
)
def test_anything_else_is_not_a_listen_address(text: object) -> None:
    with pytest.raises(ValueError) as raised:
        parse_address(text)
    expected = "is not a listen address; expected unix:PATH or tcp:HOST:PORT"
    assert str(raised.value) == f"{text!r} {expected}"


@pytest.mark.parametrize("text", ["", "h", ":1", "tcp:h:1", "unix:/s", 10810])
def test_without_a_kind_only_host_and_port_are_expected(text: object) -> None:
    with pytest.raises(ValueError, match=r"is not a listen address; expected HOST:PORT$"):
        parse_host_port(text)


def test_a_port_beyond_16_bits_is_out_of_range() -> None:
    for port in ("65536", "99999999999"):
        with pytest.raises(ValueError, match=f"port {port} is out of range; expected 1 to 65535"):
            parse_address(f"tcp:h:{port}")


def test_an_ipv6_address_needs_brackets() -> None:
    with pytest.raises(ValueError, match=r"needs brackets; expected for example tcp:\[::1\]:80$"):
        parse_address("tcp:fe80::1:80")
    with pytest.raises(ValueError, match=r"needs brackets; expected for example \[::1\]:80$"):
        parse_host_port(":::80")


def test_two_spellings_of_a_host_are_one_address() -> None:
    assert parse_address("tcp:LocalHost:1") == parse_address("tcp:localhost:01")


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("unix:/s", True),
        ("tcp:127.0.0.1:1", True),
        ("tcp:127.9.9.9:1", True),
        ("tcp:[::1]:1", True),
        ("tcp:localhost:1", True),
        ("tcp:0.0.0.0:1", False),
        ("tcp:[::]:1", False),
        ("tcp:10.0.0.1:1", False),
        ("tcp:localhost.example:1", False),
    ],
)
def test_only_loopback_is_local(text: str, local: bool) -> None:
    assert parse_address(text).is_local is local


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://beta.example:10810", UrlAddress(TcpAddress("beta.example", 10810), True)),
        ("https://Beta.Example:10810/", UrlAddress(TcpAddress("beta.example", 10810), True)),
        ("http://localhost:1", UrlAddress(TcpAddress("localhost", 1), False)),
        ("https://[::1]:2", UrlAddress(TcpAddress("::1", 2), True)),
    ],
)
def test_a_url_is_where_a_controller_answers(text: str, url: UrlAddress) -> None:
    assert parse_url(text) == url
    assert str(url) == text.lower().removesuffix("/")


@pytest.mark.parametrize(
    "text",
    [
        "beta:10810",
        "https://beta",
        "https://:1",
        "https://beta:0",
        "https://beta:x",
        "https://beta:1/path",
        "https://beta:1?q",
        "https://u@beta:1",
        "ftp://beta:1",
        "https://be ta:1",
        "https://bet\u00e4:1",
        "https://beta:1\n",
        "https://[::1:2",
        "https://beta:1//",
        5,
    ],
)
def test_anything_else_is_not_a_url_of_a_controller(text: object) -> None:
    with pytest.raises(
        ValueError, match="is not the URL of a controller; expected https://HOST:PORT"
    ):
        parse_url(text)
