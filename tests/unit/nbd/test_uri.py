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
        ("nbd+unix:///a+b?socket=/run/c+d.sock", NbdUri("a+b", "/run/c+d.sock")),
        ("nbd://localhost/a+b", NbdUri("a+b")),
        ("nbd+unix:///a%26b%3D?socket=/run/c%26d%3D%2B", NbdUri("a&b=", "/run/c&d=+")),
        ("nbd+unix:///%23%3F?socket=%00/abstract", NbdUri("#?", "\0/abstract")),
        ("nbd+unix:///%C3%A4?socket=/%E2%82%AC", NbdUri("ä", "/€")),
        ("nbds+unix:///d?tls-hostname=x&socket=/s&x-y=1", NbdUri("d", "/s", tls=True)),
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
        "nbd://[::1/data",
        "nbd://localhost/data#1",
        "nbd://localhost/%ff",
        "nbd+unix:///data?socket=/%ff",
        "nbd://localhost/\udcff",  # as Python has an argument that is not UTF-8
        "nbd+unix:///data?socket=/\udcff",
        "nbd+unix:///data?sokcet=/s",
        "nbd+unix:///data?socket=",
        "nbd+unix:///data?socket=/s&",
    ],
)
def test_errors_name_the_bad_address(text: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse_uri(text)
    assert repr(text) in str(raised.value)
