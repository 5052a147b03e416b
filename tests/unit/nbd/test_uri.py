"""NBD addresses."""

from __future__ import annotations

import pytest

from duplexd.nbd.uri import NbdUri, parse_uri


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("nbd://localhost/data", NbdUri("data")),
        ("nbd://localhost:10809/data", NbdUri("data")),
        ("nbd://", NbdUri("")),
        ("nbd://[::1]:99/data", NbdUri("data", host="::1", port=99)),
        ("nbds://host.example/", NbdUri("", host="host.example", tls=True)),
        ("nbd+unix:///data?socket=/run/nbd.sock", NbdUri("data", "/run/nbd.sock")),
        ("nbds+unix:///?socket=/a%20b", NbdUri("", "/a b", tls=True)),
        ("nbd+unix:///data%40cut?socket=/s", NbdUri("data@cut", "/s")),
        ("nbd://localhost//data", NbdUri("/data")),
    ],
)
def test_addresses_are_parsed_and_written_alike(text: str, uri: NbdUri) -> None:
    assert parse_uri(text) == uri
    assert parse_uri(str(uri)) == uri


@pytest.mark.parametrize(
    "text",
    [
        "http://localhost/data",
        "data",
        "",
        "nbd+unix:///data",
        "nbd+unix://host/data?socket=/s",
        "nbd+unix:///data?socket=/s&socket=/t",
        "nbd://localhost/data?socket=/s",
        "nbd://localhost:99999/data",
        "nbd://localhost:x/data",
    ],
)
def test_errors_name_the_bad_address(text: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_uri(text)
    assert repr(text) in str(raised.value)
