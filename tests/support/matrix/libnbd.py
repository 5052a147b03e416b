"""nbdinfo, nbdcopy and nbdsh. Also what other clients are checked by: `read_back`."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from tests.support.matrix import features as f
from tests.support.matrix.rig import (
    DEFAULT,
    FIXED,
    NAMED,
    SMALL,
    UNKNOWN,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.matrix.rig import Rig


def _version() -> str:
    done = subprocess.run(["nbdinfo", "--version"], capture_output=True, text=True, check=True)
    return "libnbd " + done.stdout.split("libnbd")[-1].split()[0]


CLIENT = f.Client("libnbd", "nbdinfo, nbdcopy, nbdsh", _version)
CLIENT.lacks("libnbd has extended headers from 1.18 on", f.EXTENDED)
URI_OF = "uri = {uri!r}\n"
CONNECTED = URI_OF + "h.connect_uri(uri)\n"


def sh(rig: Rig, code: str, uri: str, env: dict[str, str] | None = None) -> None:
    """Code for nbdsh, connected."""
    rig.run("nbdsh", "-c", CONNECTED.format(uri=uri) + code, env=env)


def read_back(rig: Rig, expected: Path, volume: str, offset: int = 0) -> None:
    """A volume has the bytes of a file."""
    code = f"""
with open({str(expected)!r}, "rb") as file:
    data = file.read()
assert h.pread(len(data), {offset}) == data
"""
    sh(rig, code, rig.unix(volume))


def _copies(rig: Rig, uri: str, env: dict[str, str] | None = None) -> None:
    source = rig.random_file()
    rig.run("nbdcopy", "--flush", source, uri, env=env)
    read_back(rig, source, CLIENT.key)


@CLIENT.can(f.UNIX)
def _unix(rig: Rig) -> None:
    _copies(rig, rig.unix(CLIENT.key))


@CLIENT.can(f.TCP)
def _tcp(rig: Rig) -> None:
    _copies(rig, rig.tcp(CLIENT.key))


def _negotiated(rig: Rig, env: dict[str, str]) -> str:
    """What GnuTLS says of the versions in its log."""
    output = rig.run(
        "nbdinfo", "--size", rig.tls(CLIENT.key), env={**env, "GNUTLS_DEBUG_LEVEL": "4"}
    )
    return "1.3" if "Negotiated version: 3.4" in output else "1.2"


@CLIENT.can(f.TLS12)
def _tls12(rig: Rig) -> None:
    assert _negotiated(rig, rig.without_tls13) == "1.2"
    _copies(rig, rig.tls(CLIENT.key), rig.without_tls13)


@CLIENT.can(f.TLS13)
def _tls13(rig: Rig) -> None:
    assert _negotiated(rig, {}) == "1.3"
    _copies(rig, rig.tls(CLIENT.key))


@CLIENT.can(f.NAMES)
def _names(rig: Rig) -> None:
    for name in NAMED:
        assert rig.run("nbdinfo", "--size", rig.unix(name)) == f"{SMALL}\n"
    code = "h.set_full_info(True)\nh.connect_uri(uri)\n"
    code += f"assert h.get_canonical_export_name() == {DEFAULT!r}"
    rig.run("nbdsh", "-c", URI_OF.format(uri=rig.unix("")) + code)
    for name in UNKNOWN:
        assert "No such file or directory" in rig.run("nbdinfo", rig.unix(name), status=1)


@CLIENT.can(f.LIST)
def _list(rig: Rig) -> None:
    exports = json.loads(rig.run("nbdinfo", "--json", "--list", rig.unix("")))["exports"]
    assert {each["export-name"] for each in exports} == {*rig.files.volumes, FIXED}


@CLIENT.can(f.EXPORT_NAME)
def _export_name(rig: Rig) -> None:
    for flags in ("0", "nbd.HANDSHAKE_FLAG_NO_ZEROES", "nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE"):
        code = f"h.set_handshake_flags({flags})\n" + CONNECTED.format(uri=rig.unix(CLIENT.key))
        code += "h.pwrite(b'x' * 512, 512)\nassert h.pread(512, 512) == b'x' * 512"
        rig.run("nbdsh", "-c", code)


@CLIENT.can(f.READ_ONLY)
def _read_only(rig: Rig) -> None:
    rig.run("nbdinfo", "--is", "read-only", rig.unix(FIXED))
    code = """
import errno
assert h.pread(512, 0) == bytes(512)
h.set_strict_mode(0)
for write in (lambda: h.pwrite(b"x", 0), lambda: h.trim(512, 0), lambda: h.zero(512, 0)):
    try:
        write()
        raise SystemExit("not refused")
    except nbd.Error as error:
        assert error.errnum == errno.EPERM, error.errnum
"""
    sh(rig, code, rig.unix(FIXED))


@CLIENT.can(f.FLUSH)
def _flush(rig: Rig) -> None:
    code = "h.pwrite(b'f' * 512, 0, nbd.CMD_FLAG_FUA)\nh.pwrite(b'g' * 512, 512)\nh.flush()\n"
    sh(rig, code + "assert h.pread(1024, 0) == b'f' * 512 + b'g' * 512", rig.unix(CLIENT.key))


@CLIENT.can(f.TRIM)
def _trim(rig: Rig) -> None:
    code = "h.pwrite(b't' * 65536, 0)\nh.trim(32768, 0)\n"
    sh(rig, code + "assert h.pread(32768, 32768) == b't' * 32768", rig.unix(CLIENT.key))


@CLIENT.can(f.TRIM_4G)
def _trim_4g(rig: Rig) -> None:
    code = "h.pwrite(b't' * 65536, 1 << 32)\nh.trim((1 << 32) - 512, 0)\nh.flush()\n"
    sh(rig, code + "assert h.pread(4096, 1 << 32) == b't' * 4096", rig.unix(CLIENT.key))


@CLIENT.can(f.ZEROES)
def _zeroes(rig: Rig) -> None:
    code = """
h.pwrite(b"z" * 65536, 0)
h.zero(4096, 4096)
h.zero(4096, 16384, nbd.CMD_FLAG_NO_HOLE)
h.zero(4096, 32768, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_FUA)
for at in (4096, 16384, 32768):
    assert h.pread(4098, at - 1) == b"z" + bytes(4096) + b"z", at
"""
    sh(rig, code, rig.unix(CLIENT.key))


SPARSE = """
h.add_meta_context("base:allocation")
h.connect_uri(uri)
h.trim(8 << 20, 0)
h.pwrite(b"d" * 65536, 1 << 20)
"""


@CLIENT.can(f.STRUCTURED)
def _structured(rig: Rig) -> None:
    code = """
assert h.get_structured_replies_negotiated()
def read(flags=0):
    chunks = []
    def chunk(buf, offset, kind, error):
        chunks.append((offset, len(buf), kind))
    data = h.pread_structured(4 << 20, 0, chunk, flags)
    assert data == bytes(1 << 20) + b"d" * 65536 + bytes((3 << 20) - 65536)
    return chunks
holes = [(0, 1 << 20, nbd.READ_HOLE), (1 << 20, 65536, nbd.READ_DATA)]
assert read()[:2] == holes, read()
assert read(nbd.CMD_FLAG_DF) == [(0, 4 << 20, nbd.READ_DATA)]
"""
    rig.run("nbdsh", "-c", URI_OF.format(uri=rig.unix(CLIENT.key)) + SPARSE + code)


@CLIENT.can(f.STATUS)
def _status(rig: Rig) -> None:
    code = """
found = []
h.block_status(4 << 20, 0, lambda name, offset, extents, error: found.extend(extents))
hole = nbd.STATE_HOLE | nbd.STATE_ZERO
assert found == [1 << 20, hole, 65536, 0, (3 << 20) - 65536, hole], found
"""
    rig.run("nbdsh", "-c", URI_OF.format(uri=rig.unix(CLIENT.key)) + SPARSE + code)
    assert "hole,zero" in rig.run("nbdinfo", "--map", rig.unix(CLIENT.key))


@CLIENT.can(f.UNALIGNED)
def _unaligned(rig: Rig) -> None:
    code = "h.pwrite(bytes(64), 0)\nh.pwrite(b'abc', 5)\nh.zero(1, 6)\nh.trim(1, 40)\n"
    sh(rig, code + "assert h.pread(5, 4) == b'\\0a\\0c\\0'", rig.unix(CLIENT.key))


def _large(rig: Rig, mib: int) -> None:
    code = f"data = bytes(range(256)) * ({mib} << 12)\nh.pwrite(data, 777)\n"
    sh(rig, code + "assert h.pread(len(data), 777) == data", rig.unix(CLIENT.key))


@CLIENT.can(f.MIB_32)
def _mib_32(rig: Rig) -> None:
    _large(rig, 32)


@CLIENT.can(f.MIB_64)
def _mib_64(rig: Rig) -> None:
    _large(rig, 64)


@CLIENT.can(f.FOUR)
def _four(rig: Rig) -> None:
    rig.run("nbdinfo", "--can", "multi-conn", rig.unix(CLIENT.key))
    source, uri = rig.random_file(32 << 20), rig.unix(CLIENT.key)
    rig.run("nbdcopy", "--connections=4", "--threads=4", "--requests=64", "--flush", source, uri)
    read_back(rig, source, CLIENT.key)
