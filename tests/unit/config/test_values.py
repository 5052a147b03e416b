"""What a single value must satisfy."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from duplexd import limits
from duplexd.config import values
from tests.unit.config.files import check_mistake

if TYPE_CHECKING:
    from pathlib import Path

CASES = {
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
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line_with_its_key(case: str, tmp_path: Path) -> None:
    check_mistake(*CASES[case], tmp_path)


def test_the_limit_of_socket_paths_is_that_of_the_kernel(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    path = str(directory / "x")
    path += "x" * (limits.SOCKET_PATH_BYTES_MAX - len(os.fsencode(path)))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError, match="too long"):
        sock.bind(path + "x")


@pytest.mark.parametrize("value", [True, False, "2", None])
def test_a_time_is_a_number_and_true_is_none(value: object) -> None:
    for check in (values.check_hold_max, values.check_disk_timeout):
        with pytest.raises(ValueError, match="seconds"):
            check(value)
