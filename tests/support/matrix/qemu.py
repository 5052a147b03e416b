"""qemu-img, qemu-io and qemu-nbd, by QEMU's block layer."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from tests.support.matrix import features as f
from tests.support.matrix.libnbd import read_back
from tests.support.matrix.rig import FIXED, LONG, NAMED, SMALL, UNKNOWN

if TYPE_CHECKING:
    from tests.support.matrix.rig import Rig


def _version() -> str:
    done = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True)
    return "QEMU " + done.stdout.split()[2]


CLIENT = f.Client("qemu", "qemu-img, qemu-io, qemu-nbd", _version)
CLIENT.lacks("QEMU uses it only with servers that know no `GO`", f.EXPORT_NAME)
CLIENT.lacks("QEMU has extended headers from 8.2 on", f.EXTENDED)
CLIENT.lacks("one connection for each image", f.FOUR)
CLIENT.differs("cut in two: the server announces 32 MiB as the maximum", f.MIB_64)
CLIENT.differs("qemu-io takes lengths below 2 GiB only", f.TRIM_4G)


def io(rig: Rig, uri: str, *commands: str) -> str:
    """qemu-io; it ends with an error if a pattern is not there."""
    arguments = [word for command in commands for word in ("-c", command)]
    return rig.run("qemu-io", "-f", "raw", "-t", "none", *arguments, uri)


def _own(rig: Rig, *commands: str) -> str:
    return io(rig, rig.unix(CLIENT.key), *commands)


@CLIENT.can(f.UNIX)
def _unix(rig: Rig) -> None:
    source, uri = rig.random_file(), rig.unix(CLIENT.key)
    rig.run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "8", source, uri)
    read_back(rig, source, CLIENT.key)


@CLIENT.can(f.TCP)
def _tcp(rig: Rig) -> None:
    io(rig, rig.tcp(CLIENT.key), "write -P 3 1M 64k", "read -P 3 1M 64k")


def _secure(rig: Rig, versions: str) -> None:
    credentials = (
        f"tls-creds-x509,id=t,dir={rig.tls_directory},endpoint=client,priority=NORMAL:{versions}"
    )
    image = f"driver=nbd,host=localhost,port={rig.secure_port},export={CLIENT.key},tls-creds=t"
    commands = ["-c", "write -P 4 2M 64k", "-c", "read -P 4 2M 64k"]
    rig.run("qemu-io", "--object", credentials, *commands, "--image-opts", image)


@CLIENT.can(f.TLS12)
def _tls12(rig: Rig) -> None:
    _secure(rig, "-VERS-TLS1.3")


@CLIENT.can(f.TLS13)
def _tls13(rig: Rig) -> None:
    _secure(rig, "-VERS-ALL:+VERS-TLS1.3")


@CLIENT.can(f.NAMES)
def _names(rig: Rig) -> None:
    for name in NAMED:
        info = json.loads(rig.run("qemu-img", "info", "--output=json", "-f", "raw", rig.unix(name)))
        assert info["virtual-size"] == SMALL
    for name in UNKNOWN:
        rig.run("qemu-img", "info", "-f", "raw", rig.unix(name), status=1)


@CLIENT.can(f.LIST)
def _list(rig: Rig) -> None:
    output = rig.run("qemu-nbd", "--list", "-k", rig.socket)
    assert f"exports available: {len(rig.files.volumes) + 1}" in output
    assert f"export: '{LONG}'" in output


@CLIENT.can(f.READ_ONLY)
def _read_only(rig: Rig) -> None:
    rig.run("qemu-io", "-r", "-f", "raw", "-c", "read -P 0 0 64k", rig.unix(FIXED))
    refused = rig.run("qemu-io", "-f", "raw", "-c", "write 0 64k", rig.unix(FIXED), status=1)
    assert "read-only" in refused or "Permission denied" in refused, refused


@CLIENT.can(f.FLUSH)
def _flush(rig: Rig) -> None:
    _own(rig, "write -f -P 5 2M 4k", "flush", "read -P 5 2M 4k")
    uri = rig.unix(CLIENT.key)
    options = ["-f", "raw", "-t", "none", "-w", "-c", "100", "-d", "1", "--flush-interval=1"]
    assert "Run completed" in rig.run("qemu-img", "bench", *options, uri)


@CLIENT.can(f.TRIM)
def _trim(rig: Rig) -> None:
    _own(rig, "write -P 6 8M 128k", "discard 8M 64k", "read -P 6 8256k 64k")


@CLIENT.can(f.TRIM_4G)
def _trim_4g(rig: Rig) -> None:
    _own(rig, "write -P 7 4G 64k", "discard 0 2147483136", "read -P 7 4G 64k")


@CLIENT.can(f.ZEROES)
def _zeroes(rig: Rig) -> None:
    _own(
        rig, "write -P 8 3M 2M", "write -z -u 3M 1M", "write -z 4M 64k", "write -z -f 4160k 64k",
        "read -P 0 3M 1152k", "read -P 8 4224k 64k",
    )  # fmt: skip


@CLIENT.can(f.STRUCTURED)
def _structured(rig: Rig) -> None:
    _own(
        rig, "discard 16M 4M", "write -P 9 17M 64k", "read -P 0 16M 1M", "read -P 9 17M 64k",
        "read 16M 4M",
    )  # fmt: skip


@CLIENT.can(f.STATUS)
def _status(rig: Rig) -> None:
    _own(rig, "discard 16M 4M", "write -P 9 17M 64k")
    uri = rig.unix(CLIENT.key)
    extents = json.loads(rig.run("qemu-img", "map", "--output=json", "-f", "raw", uri))
    assert (17 << 20, 65536) in [(each["start"], each["length"]) for each in extents]


@CLIENT.can(f.UNALIGNED)
def _unaligned(rig: Rig) -> None:
    _own(
        rig, "write -P 1 0 4k", "write -P 2 5 3", "read -P 1 0 5", "read -P 2 5 3", "read -P 1 8 9"
    )


@CLIENT.can(f.MIB_32)
def _mib_32(rig: Rig) -> None:
    _own(rig, "write -P 10 32M 32M", "read -P 10 32M 32M")


@CLIENT.can(f.MIB_64)
def _mib_64(rig: Rig) -> None:
    _own(rig, "write -P 11 64M 64M", "read -P 11 64M 64M")
