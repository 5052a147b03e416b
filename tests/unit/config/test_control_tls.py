"""`[control.tls]` and the roles: what is read, and one line for each mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.config.load import parse
from duplexd.daemon.startup import refuse_fixed
from duplexd.errors import WrongStateError
from tests.unit.config.files import GOOD, mistakes

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.config.daemon_file import Config

TLS = """
[control.tls]
listen = ["0.0.0.0:10810", "[::]:10810"]
certificate = "server.pem"
key = "/etc/duplexd/server.key"
client_ca = "clients.pem"
operate = ["backup.example"]
observe = ["monitor.example"]
"""
BOTH = 'operate = ["backup.example"]\nobserve = ["monitor.example"]\n'


def read(tmp_path: Path, text: str = GOOD + TLS) -> Config:
    return parse(text, tmp_path / "duplexd.toml")


def test_it_is_off_unless_it_is_there(tmp_path: Path) -> None:
    control = read(tmp_path, GOOD).control
    assert (control.tls, control.group_role) == (None, "operate")


def test_a_good_table_is_read(tmp_path: Path) -> None:
    tls = read(tmp_path).control.tls
    assert tls
    assert [each.authority for each in tls.listen] == ["0.0.0.0:10810", "[::]:10810"]
    assert (tls.certificate, str(tls.key), tls.client_ca) == (
        tmp_path / "server.pem",
        "/etc/duplexd/server.key",
        tmp_path / "clients.pem",
    )
    assert (tls.operate, tls.observe) == (["backup.example"], ["monitor.example"])


@pytest.mark.parametrize("kept", BOTH.splitlines())
def test_one_of_the_two_lists_is_enough(kept: str, tmp_path: Path) -> None:
    tls = read(tmp_path, GOOD + TLS.replace(BOTH, kept)).control.tls
    assert tls
    assert len(tls.operate + tls.observe) == 1


CASES = {
    "unknown key": (
        "operate",
        "operators",
        "control.tls.operators: unknown key; did you mean 'operate'?",
    ),
    "not a table": (
        TLS,
        "",
        (
            "control.tls: 5 is not a table; write for example tls = { listen = "
            '["0.0.0.0:10810"], ... }'
        ),
    ),
    "no listen": (
        'listen = ["0.0.0.0:10810", "[::]:10810"]\n',
        "",
        'control.tls.listen: is missing; write for example listen = ["0.0.0.0:10810"]',
    ),
    "listen on nothing": (
        '["0.0.0.0:10810", "[::]:10810"]',
        "[]",
        "control.tls.listen: is empty; write for example listen = [",
    ),
    "listen is text": (
        '["0.0.0.0:10810", "[::]:10810"]',
        '"0.0.0.0:10810"',
        "control.tls.listen: '0.0.0.0:10810' is not a list",
    ),
    "listen as for NBD": (
        "0.0.0.0:10810",
        "tcp:0.0.0.0:10810",
        "control.tls.listen[0]: 'tcp:0.0.0.0:10810' is not a listen address; expected HOST:PORT",
    ),
    "listen without a port": (
        "0.0.0.0:10810",
        "0.0.0.0",
        "control.tls.listen[0]: '0.0.0.0' is not a listen address; expected HOST:PORT",
    ),
    "listen on port 0": (
        "0.0.0.0:10810",
        "0.0.0.0:0",
        "control.tls.listen[0]: '0.0.0.0:0': port 0 is out of range; expected 1 to 65535",
    ),
    "listen is a number": (
        '"0.0.0.0:10810"',
        "10810",
        "control.tls.listen[0]: 10810 is not a listen address; expected HOST:PORT",
    ),
    "bare IPv6 address": (
        "[::]:10810",
        ":::10810",
        "control.tls.listen[1]: ':::10810': an IPv6 address needs brackets",
    ),
    "listen twice": (
        "[::]:10810",
        "0.0.0.0:10810",
        "control.tls.listen[1]: '0.0.0.0:10810' is listed twice; remove one",
    ),
    "the port of NBD": (
        "0.0.0.0:10810",
        "127.0.0.1:10809",
        (
            "nbd.listen[1]: 'tcp:127.0.0.1:10809' is used twice, also by "
            "control.tls.listen[0]; remove one"
        ),
    ),
    "no certificate": (
        'certificate = "server.pem"\n',
        "",
        'control.tls.certificate: is missing; write for example certificate = "server.pem"',
    ),
    "key is empty": ('"/etc/duplexd/server.key"', '""', "control.tls.key: '' is not a path"),
    "no authority": (
        'client_ca = "clients.pem"\n',
        "",
        'control.tls.client_ca: is missing; write for example client_ca = "clients.pem"',
    ),
    "an image is the key": ('"/etc/duplexd/server.key"', '"a.img"', "volumes.data.primary: "),
    "no names": (
        BOTH,
        "",
        (
            "control.tls: no client is authorized; set operate and/or observe, for example "
            'operate = ["backup.example"]'
        ),
    ),
    "empty lists": (BOTH, "operate = []\nobserve = []\n", "control.tls: no client is authorized"),
    "empty name": ('"backup.example"', '""', "control.tls.operate[0]: is empty"),
    "name is a number": ('"backup.example"', "5", "control.tls.operate[0]: 5 is not text"),
    "name of both roles": (
        "monitor.example",
        "backup.example",
        (
            "control.tls.observe[0]: 'backup.example' is in control.tls.operate too, which "
            "includes the role observe"
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line_with_its_key(case: str, tmp_path: Path) -> None:
    old, new, expected = CASES[case]
    text = GOOD + TLS
    assert old in text
    text = text.replace("[control]\n", "[control]\ntls = 5\n") if case == "not a table" else text
    (line,) = mistakes(text.replace(old, new, 1), tmp_path)
    assert expected in line


def test_a_role_that_is_none(tmp_path: Path) -> None:
    expected = (
        "control.group_role: 'admin' is not one of the choices; write group_role = "
        '"observe" or group_role = "operate"'
    )
    assert mistakes(GOOD.replace("[control]", '[control]\ngroup_role = "admin"'), tmp_path) == [
        expected
    ]


# Reload


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("server.pem", "new.pem"),
        ("backup.example", "else"),
        (BOTH, 'observe = ["a"]\n'),
        ("[control]", 'mode = "0600"\n[control]\ngroup_role = "observe"'),
    ],
)
def test_roles_and_certificates_may_change_while_the_daemon_runs(
    old: str, new: str, tmp_path: Path
) -> None:
    refuse_fixed(read(tmp_path), read(tmp_path, (GOOD + TLS).replace(old, new, 1)))


@pytest.mark.parametrize(
    "text", [GOOD, GOOD + TLS.replace("0.0.0.0:10810", "127.0.0.1:10810")], ids=["off", "elsewhere"]
)
def test_where_it_listens_may_not(text: str, tmp_path: Path) -> None:
    with pytest.raises(
        WrongStateError,
        match=r"control\.tls\.listen: was .*, is now .*: cannot change while the daemon runs",
    ):
        refuse_fixed(read(tmp_path), read(tmp_path, text))
