"""Where the points of a cut are read."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.backup import sources
from duplexd.client import ControllerEntry, Points
from duplexd.config.groups import LOCAL, LocalPlace
from duplexd.errors import ConfigurationError

if TYPE_CHECKING:
    from duplexd.config.groups import Place

FAR = {"url": "https://far.example:10810", "certificate": Path("/c.pem"), "ca": Path("/ca.pem")}


def points(name: str, listen: list[str]) -> Points:
    controller = name.partition(":")[0] if ":" in name else LOCAL
    row = {"name": name, "controller": "own", "volume": "data", "size": 4096, "export": "data@c"}
    return Points("db", "c", "consistent", "", 0.0, {controller: {"nbd": listen}}, [row])


def found(name: str, listen: list[str], place: Place) -> sources.Source:
    controller = name.partition(":")[0] if ":" in name else LOCAL
    return sources.find(points(name, listen), {controller: place})[0]


def file_of(source: sources.Source) -> dict[str, Any]:
    image: dict[str, Any] = json.loads(source.image().removeprefix("json:"))
    return dict(image["file"])


def listening(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
    return f"unix:{path}"


def test_a_daemon_of_this_machine_is_read_through_its_socket(tmp_path: Path) -> None:
    address = listening(tmp_path / "nbd.sock")
    source = found("data", [address, "tcp:0.0.0.0:10809"], LocalPlace(tmp_path / "ctl.sock"))
    assert file_of(source) == {
        "driver": "nbd",
        "export": "data@c",
        "server": {"type": "unix", "path": str(tmp_path / "nbd.sock")},
    }
    assert source.credentials(tmp_path) == []


def test_a_socket_that_this_user_cannot_open_is_passed_over(tmp_path: Path) -> None:
    address = listening(tmp_path / "nbd.sock")
    listen = [f"unix:{tmp_path}/gone.sock", address]
    source = found("data", listen, LocalPlace(tmp_path / "ctl.sock"))
    assert source.uri.socket == str(tmp_path / "nbd.sock")


def test_a_controller_with_https_is_read_over_tls(tmp_path: Path) -> None:
    source = found("far:data", ["unix:/x", "tcp:0.0.0.0:10809"], ControllerEntry(**FAR))
    file = file_of(source)
    assert file["server"] == {"type": "inet", "host": "far.example", "port": "10809"}
    assert (file["tls-creds"], file["tls-hostname"]) == ("tls-far-data", "far.example")
    source.link_credentials(tmp_path)
    made = tmp_path / "far+data"
    assert {path.name: str(path.readlink()) for path in made.iterdir()} == {
        "ca-cert.pem": "/ca.pem",
        "client-cert.pem": "/c.pem",
        "client-key.pem": "/c.pem",  # without a key, the certificate's file has it
    }
    assert source.credentials(tmp_path)[1].endswith(f"dir={made}")


def test_the_address_of_the_groups_file_comes_first_and_stays_encrypted() -> None:
    place = ControllerEntry(**FAR, nbd="tcp:localhost:7000")
    file = file_of(found("far:data", ["tcp:0.0.0.0:10809"], place))
    assert file["server"] == {"type": "inet", "host": "localhost", "port": "7000"}
    assert file["tls-hostname"] == "far.example"


def test_without_an_authority_nothing_is_copied(tmp_path: Path) -> None:
    place = ControllerEntry(**{**FAR, "ca": None})
    source = found("far:data", ["tcp:0.0.0.0:10809"], place)
    with pytest.raises(ConfigurationError, match=r"controllers\.own: .* ca has to be named"):
        source.link_credentials(tmp_path)


def test_a_controller_that_cannot_be_reached_says_what_to_write() -> None:
    with pytest.raises(ConfigurationError, match=r'add nbd = "tcp:HOST:PORT"'):
        found("far:data", ["unix:/run/nbd.sock"], ControllerEntry(**FAR))
