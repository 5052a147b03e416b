"""Listeners that let in more than anybody asked for: refused without the word for it, and named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.config.exposure import describe_exposure, refused_sockets
from duplexd.config.load import parse
from duplexd.net.address import TcpAddress, UnixAddress
from tests.unit.config.files import mistakes

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.config.daemon_file import Config
    from duplexd.net.address import Address

_FILE = """
[controller]
name = "alpha"
state_dir = "state"
[nbd]
{nbd}
[control]
socket = "ctl.sock"
{control}
[volumes.data]
size = "8MiB"
primary = "a.img"
{volume}
"""
TLS = '[nbd.tls]\ncertificate = "s.pem"\nkey = "s.key"\n'
WITH_CA = TLS + 'client_ca = "c.pem"\n'
UNIX, LOCAL, FAR = '"unix:n"', '"tcp:127.0.0.1:10809"', '"tcp:0.0.0.0:10809"'


def text(nbd: str, control: str = "", volume: str = "") -> str:
    return _FILE.format(nbd=nbd, control=control, volume=volume)


def read(tmp_path: Path, nbd: str) -> Config:
    return parse(text(nbd), tmp_path / "duplexd.toml")


def table(address: str, more: str = "") -> str:
    return f"[[nbd.listeners]]\naddress = {address}\n{more}\n"


OPEN = {
    "loopback": (f"listen = [{LOCAL}]", "lets in every user of this machine, to overwrite"),
    "every address": (f"listen = [{FAR}]", "lets in every machine that reaches the address"),
    "a name": ('listen = ["tcp:db.example:1"]', "lets in every machine that reaches the address"),
    "TLS is optional": (
        WITH_CA + table(FAR, 'tls = "optional"'),
        "lets in every machine",
    ),
    "TLS with a list of all addresses": (
        TLS + table(FAR, 'allow = ["user:1000", "address:0.0.0.0/0"]'),
        "lets in every machine",
    ),
    "TLS that asks clients for certificates and does without": (
        WITH_CA + 'clients = "optional"\n' + table(FAR),
        "lets in every machine",
    ),
    "TLS without certificates of clients": (
        TLS + table(FAR),
        "set client_ca in [nbd.tls], or allow for this listener",
    ),
    "addresses without TLS": (
        table(FAR, 'allow = ["address:10.0.0.0/8"]'),
        "lets in every machine",
    ),
    "a socket for everybody": (
        f'listen = [{UNIX}]\nmode = "0666"',
        "lets in every user of this machine, to overwrite every volume",
    ),
}


@pytest.mark.parametrize("case", OPEN)
def test_an_open_listener_needs_the_word_for_it(case: str, tmp_path: Path) -> None:
    nbd, expected = OPEN[case]
    (line,) = mistakes(text(nbd), tmp_path)
    assert expected in line
    assert line.endswith("or set insecure = true")
    assert read(tmp_path, "insecure = true\n" + nbd).nbd.insecure


CLOSED = {
    "unix": f"listen = [{UNIX}]",
    "certificates of clients": WITH_CA + table(FAR),
    "TLS and a list": TLS + table(FAR, 'allow = ["address:10.0.0.0/8"]'),
    "a socket for everybody with a list": table(UNIX, 'mode = "0666"\nallow = ["user:1000"]'),
    "insecure for one listener": table(LOCAL, "insecure = true"),
}


@pytest.mark.parametrize("case", CLOSED)
def test_a_listener_that_knows_its_clients_does_not(case: str, tmp_path: Path) -> None:
    assert describe_exposure(read(tmp_path, CLOSED[case])) == [] or "insecure" in case


def test_what_is_open_on_purpose_is_described(tmp_path: Path) -> None:
    config = read(tmp_path, f"listen = [{UNIX}, {LOCAL}]\ninsecure = true")
    assert describe_exposure(config) == [
        "tcp:127.0.0.1:10809 is insecure: every user of this machine can overwrite data"
    ]


def test_tls_needs_a_certificate(tmp_path: Path) -> None:
    (line,) = mistakes(text(table(UNIX, 'tls = "required"')), tmp_path)
    assert line.startswith("nbd.listeners[0].tls: 'required' needs a certificate")


def test_certificates_of_clients_need_an_authority(tmp_path: Path) -> None:
    nbd = f'listen = [{UNIX}]\n{TLS}clients = "optional"'
    (line,) = mistakes(text(nbd), tmp_path)
    assert line.startswith("nbd.tls.clients: 'optional' needs the authority that signs clients")


def test_tls_is_required_on_tcp_and_off_on_unix_by_default(tmp_path: Path) -> None:
    config = read(tmp_path, f"listen = [{UNIX}, {FAR}]\n{WITH_CA}")
    assert [place.tls for place in config.nbd.places] == ["off", "required"]


def test_the_default_export_is_a_volume(tmp_path: Path) -> None:
    (line,) = mistakes(text(f'listen = [{UNIX}]\ndefault = "dta"'), tmp_path)
    assert line == "nbd.default: there is no volume 'dta'; did you mean 'data'?"


@pytest.mark.parametrize("mode", ["660", "0660"])
def test_a_mode_is_octal(mode: str, tmp_path: Path) -> None:
    assert read(tmp_path, f'listen = [{UNIX}]\nmode = "{mode}"').nbd.mode == 0o660


@pytest.mark.parametrize("mode", ["660", '"rw"', '"888"', '"07777"', '"1660"'])
def test_what_is_not_a_mode_is_a_mistake(mode: str, tmp_path: Path) -> None:
    (line,) = mistakes(text(f"listen = [{UNIX}]\nmode = {mode}"), tmp_path)
    assert "is not a mode; expected three octal digits" in line


@pytest.mark.parametrize("mode", ["0060", "0460", "0066", "0266"])
def test_a_mode_that_keeps_the_daemon_out_is_a_mistake(mode: str, tmp_path: Path) -> None:
    (line,) = mistakes(text(f'listen = [{UNIX}]\nmode = "{mode}"'), tmp_path)
    assert "takes access from the daemon itself" in line


@pytest.mark.parametrize(("mode", "count"), [("0666", 1), ("0642", 1), ("0644", 0), ("0660", 0)])
def test_images_that_every_user_may_overwrite_are_a_mistake(
    mode: str, count: int, tmp_path: Path
) -> None:
    written = text(f"listen = [{UNIX}]").replace(
        "[controller]\n", f'[controller]\nimage_mode = "{mode}"\n', 1
    )
    assert "image_mode" in written
    lines = mistakes(written, tmp_path) if count else []
    assert [line.partition(":")[0] for line in lines] == ["controller.image_mode"] * count
    if not count:
        assert parse(written, tmp_path / "f.toml").controller.image_mode == int(mode, 8)


OBSERVE = 'group_role = "observe"'
WRITERS = {
    "its own group": (f"listen = [{UNIX}]", OBSERVE, ""),
    "one group for both": (
        f'listen = [{UNIX}]\ngroup = "staff"',
        f'{OBSERVE}\ngroup = "staff"',
        "",
    ),
    "on the list of the volume": (
        f'listen = [{UNIX}]\ngroup = "staff"',
        f'{OBSERVE}\ngroup = "staff"',
        'allow = ["group:staff"]',
    ),
    "a socket for everybody": (
        f'listen = [{UNIX}]\nmode = "0666"\ninsecure = true',
        f'{OBSERVE}\ngroup = "staff"',
        "",
    ),
    "a socket for everybody on the list": (
        table(UNIX, 'mode = "0666"\nallow = ["group:staff"]'),
        f'{OBSERVE}\ngroup = "staff"',
        "",
    ),
}


@pytest.mark.parametrize("case", WRITERS)
def test_a_group_that_writes_to_volumes_is_not_called_observers(case: str, tmp_path: Path) -> None:
    (line,) = mistakes(text(*WRITERS[case]), tmp_path)
    assert line.startswith('control.group_role: "observe" is for')


OBSERVERS = {
    "another group": (f"listen = [{UNIX}]", f'{OBSERVE}\ngroup = "staff"', ""),
    "the socket is for the daemon alone": (f'listen = [{UNIX}]\nmode = "0600"', OBSERVE, ""),
    "read-only listener": (table(UNIX, "read_only = true"), OBSERVE, ""),
    "read-only volume": (f"listen = [{UNIX}]", OBSERVE, "read_only = true"),
    "a socket for everybody but its group": (
        f'listen = [{UNIX}]\nmode = "0606"\ninsecure = true',
        OBSERVE,
        "",
    ),
    "a socket for others on the list": (
        table(UNIX, 'mode = "0666"\nallow = ["group:users"]'),
        f'{OBSERVE}\ngroup = "staff"',
        "",
    ),
    "others are on the list": (f"listen = [{UNIX}]", OBSERVE, 'allow = ["user:7"]'),
}


@pytest.mark.parametrize("case", OBSERVERS)
def test_a_group_that_cannot_write_may_be_observers(case: str, tmp_path: Path) -> None:
    assert parse(text(*OBSERVERS[case]), tmp_path / "f.toml").control.group_role == "observe"


def test_a_tcp_socket_that_was_passed_needs_the_word_too(tmp_path: Path) -> None:
    passed: list[Address] = [UnixAddress("/run/s"), TcpAddress("127.0.0.1", 7)]
    (line,) = refused_sockets(read(tmp_path, ""), passed)
    assert line.startswith("LISTEN_FDS: 'tcp:127.0.0.1:7' lets in every user of this machine")
    assert not list(refused_sockets(read(tmp_path, "insecure = true"), passed))
