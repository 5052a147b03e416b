"""One case for each mistake that a configuration can hold: one line, with file, key, and what would
be right.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from duplexd import limits
from duplexd.config.load import load, parse
from duplexd.errors import ConfigurationError
from duplexd.net.address import TcpAddress, UnixAddress

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config

GOOD = """
[controller]
name = "alpha"
state_dir = "state"
journal_size = "64MiB"
[nbd]
listen = ["unix:nbd.sock", "tcp:127.0.0.1:10809"]
[control]
socket = "ctl.sock"
[volumes.data]
size = "8MiB"
primary = "a.img"
secondary = "/elsewhere/b.img"
mode = "async"
[volumes.wal]
size = 4096
primary = "wal.img"
[groups.db]
volumes = ["data", "wal"]
"""
ROOT = Path(__file__).resolve().parents[3]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def mistakes(text: str, directory: Path) -> list[str]:
    """The lines of the error, each without the file's name, which it must begin with."""
    path = directory / "duplexd.toml"
    with pytest.raises(ConfigurationError) as caught:
        parse(text, path)
    assert caught.value.exit_code == 6
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


@pytest.fixture
def good(tmp_path: Path) -> Config:
    return parse(GOOD, tmp_path / "duplexd.toml")


def test_a_good_file_is_read(good: Config, tmp_path: Path) -> None:
    assert good.source == tmp_path / "duplexd.toml"
    assert good.controller.name == "alpha"
    assert good.controller.journal_size == 64 << 20
    assert list(good.volumes) == ["data", "wal"]
    assert (good.volumes["data"].size, good.volumes["data"].mode) == (8 << 20, "async")
    assert (good.volumes["wal"].size, good.volumes["wal"].secondary, good.volumes["wal"].mode) == (
        4096,
        None,
        "sync",
    )
    assert good.groups["db"].volumes == ["data", "wal"]
    assert good.control.group is None


def test_relative_paths_are_relative_to_the_file(
    good: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert good.controller.state_dir == tmp_path / "state"
    assert good.nbd.listen == [
        UnixAddress(f"{tmp_path}/nbd.sock"),
        TcpAddress("127.0.0.1", 10809),
    ]
    assert good.control.socket == tmp_path / "ctl.sock"
    assert good.volumes["data"].primary == tmp_path / "a.img"
    assert good.volumes["data"].secondary == Path("/elsewhere/b.img")
    (tmp_path / "duplexd.toml").write_text(changed('"a.img"', '"../up/a.img"'))
    monkeypatch.chdir(tmp_path)
    assert load("duplexd.toml").volumes["data"].primary == tmp_path.parent / "up" / "a.img"


def test_values_do_not_change_once_checked(good: Config) -> None:
    with pytest.raises(ValueError, match="frozen"):
        good.controller.name = "beta"  # type: ignore[misc]


def test_defaults(tmp_path: Path) -> None:
    text = '[controller]\nname = "a"\nstate_dir = "s"\n[nbd]\nlisten = ["unix:n"]\n'
    config = parse(text, tmp_path / "f.toml")
    assert config.controller.journal_size == 1 << 30
    assert config.control.socket == Path("/run/duplexd/control.sock")
    assert config.volumes == {}
    assert config.groups == {}


@pytest.mark.parametrize("name", ["duplexd.toml", "example-database.toml"])
def test_the_configurations_that_come_along_are_good(name: str) -> None:
    config = load(ROOT / "configs" / name)
    assert config.groups


CASES = {
    # unknown keys
    "unknown key of the controller": (
        'name = "alpha"',
        'name = "alpha"\nnaem = 1',
        "controller.naem: unknown key; did you mean 'name'?",
    ),
    "unknown key of nbd": (
        "[nbd]",
        "[nbd]\nlissten = []",
        "nbd.lissten: unknown key; did you mean 'listen'?",
    ),
    "unknown key of control": (
        "[control]",
        "[control]\ngrp = 1",
        "control.grp: unknown key; did you mean 'group'?",
    ),
    "unknown key of a volume": (
        'primary = "a.img"',
        'primary = "a.img"\nsecundary = "x"',
        "volumes.data.secundary: unknown key; did you mean 'secondary'?",
    ),
    "unknown key of a group": (
        "[groups.db]",
        "[groups.db]\nx = 1",
        "groups.db.x: unknown key; expected one of: volumes",
    ),
    "unknown table": ("[nbd]", "[volume.x]\n[nbd]", "volume: unknown key; did you mean 'volumes'?"),
    "a key of ours": (
        "\n[controller]",
        'source = "x"\n[controller]',
        "source: unknown key; remove it",
    ),
    # missing and of the wrong type
    "no name": (
        'name = "alpha"\n',
        "",
        'controller.name: is missing; write for example name = "alpha"',
    ),
    "no state_dir": (
        'state_dir = "state"\n',
        "",
        'controller.state_dir: is missing; write for example state_dir = "/var/lib/duplexd/alpha"',
    ),
    "no size": (
        'size = "8MiB"\n',
        "",
        'volumes.data.size: is missing; write for example size = "10GiB"',
    ),
    "no primary": (
        'primary = "a.img"\n',
        "",
        'volumes.data.primary: is missing; write for example primary = "/srv/a/data.img"',
    ),
    "name is a number": (
        '"alpha"',
        "5",
        (
            "controller.name: 5 is not a name; expected 1 to 128 letters, digits, '.', '_' "
            "or '-', not '-' first"
        ),
    ),
    "name with a slash": (
        '"alpha"',
        '"a/b"',
        "controller.name: 'a/b' is not a name; expected 1 to 128",
    ),
    "listen is text": (
        '["unix:nbd.sock", "tcp:127.0.0.1:10809"]',
        '"unix:nbd.sock"',
        "nbd.listen: 'unix:nbd.sock' is not a list; write for example listen = [",
    ),
    "insecure is text": (
        "[nbd]",
        '[nbd]\ninsecure = "yes"',
        "nbd.insecure: 'yes' is not true or false; write for example insecure = true",
    ),
    "group is a number": (
        "[control]",
        "[control]\ngroup = 7",
        'control.group: 7 is not text; write for example group = "duplexd"',
    ),
    "group is empty text": (
        "[control]",
        '[control]\ngroup = ""',
        'control.group: is empty; write for example group = "duplexd"',
    ),
    "mode unknown": (
        '"async"',
        '"fast"',
        (
            "volumes.data.mode: 'fast' is not one of the choices; write mode = \"sync\" or "
            'mode = "async"'
        ),
    ),
    "volumes of a group is text": (
        'volumes = ["data", "wal"]',
        'volumes = "data"',
        "groups.db.volumes: 'data' is not a list; write for example volumes = [",
    ),
    "member is a number": ('["data", "wal"]', "[1]", "groups.db.volumes[0]: 1 is not text"),
    "volume is a number": (
        '[volumes.wal]\nsize = 4096\nprimary = "wal.img"',
        "[volumes]\nwal = 5",
        "volumes.wal: 5 is not a table",
    ),
    # sizes
    "no size at all": (
        '"8MiB"',
        '"10 bananas"',
        (
            "volumes.data.size: '10 bananas' is not a size; write for example \"64MiB\", "
            '"10GiB" or a number of bytes'
        ),
    ),
    "size zero": (
        '"8MiB"',
        "0",
        "volumes.data.size: 0 is too small for a volume; expected at least 4096",
    ),
    "size negative": (
        '"8MiB"',
        "-4096",
        "volumes.data.size: -4096 is too small for a volume; expected at least 4096",
    ),
    "size odd": (
        '"8MiB"',
        "5000",
        "volumes.data.size: 5000 is not a multiple of 4096 bytes; expected 4096 or 8192",
    ),
    "size small and odd": (
        '"8MiB"',
        '"1KiB"',
        "volumes.data.size: '1KiB' is not a multiple of 4096 bytes; expected 4096",
    ),
    "size a float": ('"8MiB"', "8.0", "volumes.data.size: 8.0 is not a size"),
    "size too big": (
        '"8MiB"',
        '"2000000TiB"',
        "volumes.data.size: '2000000TiB' is too big; expected at most 1152921504606846976",
    ),
    "copy rate too low": (
        'journal_size = "64MiB"',
        'copy_rate = "1KiB"',
        "controller.copy_rate: '1KiB' is too slow; copy_rate must be at least 64.0 KiB/s",
    ),
    "copy rate no size": (
        'journal_size = "64MiB"',
        'copy_rate = "fast"',
        "controller.copy_rate: 'fast' is not a size",
    ),
    "journal too small": (
        '"64MiB"',
        '"1MiB"',
        "controller.journal_size: '1MiB' is too small; expected 16.0 MiB to 4.0 TiB",
    ),
    "journal too big": (
        '"64MiB"',
        '"5TiB"',
        "controller.journal_size: '5TiB' is too big; expected 16.0 MiB to 4.0 TiB",
    ),
    "journal no size": ('"64MiB"', '"much"', "controller.journal_size: 'much' is not a size"),
    # paths
    "path is a number": (
        '"a.img"',
        "5",
        "volumes.data.primary: 5 is not a path; write for example",
    ),
    "path is empty": ('"a.img"', '""', "volumes.data.primary: '' is not a path; write for example"),
    "path with NUL": (
        '"a.img"',
        '"a\\u0000b"',
        "volumes.data.primary: 'a\\x00b' is not a path: it contains a NUL character; remove it",
    ),
    "NBD socket too long": (
        '"unix:nbd.sock"',
        f'"unix:/{"x" * 107}"',
        "is too long for a Unix socket (108 bytes); expected at most 107",
    ),
    "control socket too long": (
        '"ctl.sock"',
        f'"/{"x" * 107}"',
        "is too long for a Unix socket (108 bytes); expected at most 107",
    ),
    # listeners
    "listen on nothing": (
        '["unix:nbd.sock", "tcp:127.0.0.1:10809"]',
        "[]",
        "nbd.listen: is empty; write for example listen = [",
    ),
    "listen on rubbish": (
        '"unix:nbd.sock"',
        '"udp:1"',
        "nbd.listen[0]: 'udp:1' is not a listen address; expected unix:PATH or tcp:HOST:PORT",
    ),
    "listen without a path": (
        '"unix:nbd.sock"',
        '"unix:"',
        "nbd.listen[0]: 'unix:' is not a listen address; expected unix:PATH or tcp:HOST:PORT",
    ),
    "listen without a port": (
        "tcp:127.0.0.1:10809",
        "tcp:127.0.0.1",
        (
            "nbd.listen[1]: 'tcp:127.0.0.1' is not a listen address; expected unix:PATH or "
            "tcp:HOST:PORT"
        ),
    ),
    "listen on port 0": (
        ":10809",
        ":0",
        "nbd.listen[1]: 'tcp:127.0.0.1:0': port 0 is out of range; expected 1 to 65535",
    ),
    "listen on port 70000": (
        ":10809",
        ":70000",
        "nbd.listen[1]: 'tcp:127.0.0.1:70000': port 70000 is out of range; expected 1 to 65535",
    ),
    "listen on a bare IPv6 address": (
        "127.0.0.1",
        "::1",
        "nbd.listen[1]: 'tcp:::1:10809': an IPv6 address needs brackets",
    ),
    "listen twice on a socket": (
        '"unix:nbd.sock"',
        '"unix:nbd.sock", "unix:./x/../nbd.sock"',
        "is used twice, also by nbd.listen[0]; remove one",
    ),
    "listen twice on a port": (
        '"unix:nbd.sock"',
        '"tcp:127.0.0.1:10809"',
        "'tcp:127.0.0.1:10809' is used twice, also by nbd.listen[0]",
    ),
    "listen on the control socket": (
        '"unix:nbd.sock"',
        '"unix:ctl.sock"',
        "is used twice, also by control.socket",
    ),
    "listen for everybody": (
        "127.0.0.1",
        "0.0.0.0",
        "nbd.listen[1]: 'tcp:0.0.0.0:10809' can be reached from other machines",
    ),
    "listen on a name": (
        "127.0.0.1",
        "db.example",
        (
            "can be reached from other machines, without encryption or password; listen on "
            "127.0.0.1, or set insecure"
        ),
    ),
    # images
    "secondary is the primary": ('"/elsewhere/b.img"', '"./a.img"', "volumes.data.secondary: "),
    "image of two volumes": (
        '"wal.img"',
        '"a.img"',
        "is used twice, also by volumes.data.primary; configure an image for each leg",
    ),
    "image is the configuration": (
        '"wal.img"',
        '"duplexd.toml"',
        "is used twice, also by the file itself",
    ),
    "image is the state directory": (
        '"wal.img"',
        '"state"',
        "is used twice, also by controller.state_dir",
    ),
    "image is a socket": ('"wal.img"', '"nbd.sock"', "is used twice, also by nbd.listen[0]"),
    "image in the journal": (
        '"wal.img"',
        '"state/journal/0001.seg"',
        "is part of the journal; put the image outside of controller.state_dir",
    ),
    "image is the checkpoint": ('"wal.img"', '"state/checkpoint"', "is part of the journal"),
    # names and groups
    "name begins with a dash": (
        "[volumes.wal]",
        "[volumes.-wal]",
        "volumes.-wal: '-wal' is not a name",
    ),
    "name with a space": (
        "[volumes.wal]",
        '[volumes."w al"]',
        "volumes.w al: 'w al' is not a name",
    ),
    "name too long": (
        "[volumes.wal]",
        f"[volumes.{'x' * 129}]",
        "is not a name; expected 1 to 128 letters",
    ),
    "name is two dots": ("[volumes.wal]", '[volumes.".."]', "'..' is not a name"),
    "name of a cut": ("[volumes.wal]", '[volumes."wal@1"]', "'wal@1' is not a name"),
    "group with a bad name": ("[groups.db]", '[groups."d/b"]', "groups.d/b: 'd/b' is not a name"),
    "group of nothing": (
        '["data", "wal"]',
        "[]",
        "groups.db.volumes: is empty; write for example volumes = [",
    ),
    "group without volumes": (
        'volumes = ["data", "wal"]',
        "",
        "groups.db.volumes: is missing; write for example volumes = [",
    ),
    "unknown member": (
        '["data", "wal"]',
        '["data", "wall"]',
        "groups.db.volumes[1]: there is no volume 'wall'; did you mean 'wal'?",
    ),
    "member twice": (
        '["data", "wal"]',
        '["data", "data"]',
        "groups.db.volumes[1]: 'data' is listed twice; remove one",
    ),
    "group named as a volume": (
        "[groups.db]",
        "[groups.data]",
        (
            "groups.data: a volume has this name too, so that commands could not tell them "
            "apart; rename one"
        ),
    ),
    "group of two modes": (
        'primary = "wal.img"',
        'primary = "wal.img"\nsecondary = "w2"',
        "'data' (async) and 'wal' (sync) differ in mode, but a group is cut at one sequence number",
    ),
    # TOML
    "not TOML": ('name = "alpha"', "name = alpha", "not TOML: Invalid value (at line 3, column 8)"),
    "a table twice": (
        "[nbd]",
        "[controller]\n[nbd]",
        "not TOML: Cannot declare ('controller',) twice",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line_with_its_key(case: str, tmp_path: Path) -> None:
    old, new, expected = CASES[case]
    lines = mistakes(changed(old, new), tmp_path)
    assert any(expected in line for line in lines), lines
    # a volume whose table is broken is also missing from its group or the like: never more than one
    # such line
    assert len(lines) == 1 or all(
        line.startswith("groups.db.volumes[") for line in lines if expected not in line
    ), lines


@pytest.mark.parametrize("table", ["controller", "nbd"])
def test_a_table_that_is_missing_is_named(table: str, tmp_path: Path) -> None:
    start = GOOD.index(f"[{table}]")
    end = GOOD.index("\n[", start)
    assert mistakes(GOOD[:start] + GOOD[end:], tmp_path) == [
        f"{table}: is missing; write a table [{table}]"
    ]


def test_every_mistake_has_a_line(tmp_path: Path) -> None:
    text = changed('"8MiB"', "0").replace('"64MiB"', "1").replace('name = "alpha"', "")
    keys = [line.split(":")[0] for line in mistakes(text, tmp_path)]
    assert keys == ["controller.name", "controller.journal_size", "volumes.data.size"]


def test_an_image_is_recognised_by_a_link_to_it(tmp_path: Path) -> None:
    (tmp_path / "a.img").write_bytes(b"")
    (tmp_path / "wal.img").hardlink_to(tmp_path / "a.img")
    assert "also by volumes.data.primary;" in mistakes(GOOD, tmp_path)[0]


def test_an_image_is_recognised_through_a_linked_directory(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert (
        "also by volumes.data.primary;"
        in mistakes(changed('"wal.img"', '"link/a.img"'), tmp_path)[0]
    )


def test_too_many_volumes(tmp_path: Path) -> None:
    volumes = "".join(
        f'[volumes.v{n}]\nsize = 4096\nprimary = "v{n}"\n' for n in range(limits.VOLUMES_MAX - 1)
    )
    assert mistakes(GOOD + volumes, tmp_path) == [
        "volumes: 4097 volumes are too many; expected at most 4096"
    ]


def test_modes_of_volumes_without_secondary_do_not_matter(tmp_path: Path) -> None:
    assert parse(GOOD, tmp_path / "f.toml").volumes["wal"].mode != "async"


def test_insecure_allows_other_machines(tmp_path: Path) -> None:
    text = changed("[nbd]", "[nbd]\ninsecure = true").replace("127.0.0.1", "0.0.0.0")
    assert parse(text, tmp_path / "f.toml").nbd.listen[1] == TcpAddress("0.0.0.0", 10809)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda _: None,
            "cannot be read: No such file or directory; give the configuration with --config FILE",
        ),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
        (
            lambda path: path.write_bytes(b"a = 1\nb = '\xff'"),
            "line 2: not UTF-8; save the file as UTF-8 text",
        ),
        (lambda path: path.write_text("a = " + "[" * 9000), "not TOML"),
    ],
    ids=["missing", "a directory", "a loop", "not UTF-8", "nested deeply"],
)
def test_a_file_that_cannot_be_read_is_named(make: object, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "duplexd.toml"
    assert callable(make)
    make(path)
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {expected}")
    assert "\n" not in str(caught.value)


def test_a_file_name_with_nul_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="not a file name"):
        load("a\0b")


def test_the_limit_of_socket_paths_is_that_of_the_kernel(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    path = str(directory / "x")
    path += "x" * (limits.SOCKET_PATH_BYTES_MAX - len(os.fsencode(path)))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError, match="too long"):
        sock.bind(path + "x")
