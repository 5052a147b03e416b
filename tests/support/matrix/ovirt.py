"""The NBD client of oVirt's imageio, which copies disks of virtual machines."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from tests.support.matrix import features as f
from tests.support.matrix.rig import FIXED, NAMED, SMALL, UNKNOWN

if TYPE_CHECKING:
    from tests.support.matrix.rig import Rig


def _version() -> str:
    return "ovirt-imageio " + importlib.metadata.version("ovirt-imageio")


CLIENT = f.Client("ovirt", "ovirt-imageio", _version)
CLIENT.lacks("it has no TLS", f.TLS12, f.TLS13)
CLIENT.lacks("it has no such option", f.LIST, f.EXPORT_NAME, f.EXTENDED)
CLIENT.lacks("it has no such request", f.TRIM, f.TRIM_4G)
CLIENT.differs("flush only; it does not send FUA", f.FLUSH)
BEGIN = """
import sys
from ovirt_imageio._internal import nbd
from ovirt_imageio._internal.nbd import Client, TCPAddress, UnixAddress
where = TCPAddress("127.0.0.1", int(sys.argv[1])) if sys.argv[1].isdigit() else UnixAddress(
    sys.argv[1])
client = Client(where, sys.argv[2])
"""


def _run(rig: Rig, code: str, where: str = "", volume: str = CLIENT.key) -> None:
    rig.python(BEGIN + code + "\nclient.close()", where or rig.socket, volume)


WRITES = "client.write(4096, b'o' * 65536)\nassert client.read(4095, 3) == b'\\0oo'"


@CLIENT.can(f.UNIX)
def _unix(rig: Rig) -> None:
    _run(rig, WRITES)


@CLIENT.can(f.TCP)
def _tcp(rig: Rig) -> None:
    _run(rig, WRITES, where=str(rig.port))


@CLIENT.can(f.NAMES)
def _names(rig: Rig) -> None:
    for name in NAMED:
        _run(rig, f"assert client.export_size == {SMALL}", volume=name)
    for name in UNKNOWN:
        code = BEGIN.replace(
            "client = Client(where, sys.argv[2])",
            "try:\n    Client(where, sys.argv[2])\n    raise SystemExit('opened')\n"
            "except nbd.Error as error:\n    assert 'no export' in str(error), error",
        )
        rig.python(code, rig.socket, name)


@CLIENT.can(f.READ_ONLY)
def _read_only(rig: Rig) -> None:
    code = """
assert client.transmission_flags & nbd.FLAG_READ_ONLY
assert client.read(0, 512) == bytes(512)
try:
    client.write(0, b"x")
    raise SystemExit("not refused")
except nbd.Error as error:
    assert "Operation not permitted" in str(error), error
"""
    _run(rig, code, volume=FIXED)


@CLIENT.can(f.FLUSH)
def _flush(rig: Rig) -> None:
    _run(rig, "client.write(0, b'f' * 512)\nclient.flush()")


@CLIENT.can(f.ZEROES)
def _zeroes(rig: Rig) -> None:
    code = """
client.write(0, b"z" * 65536)
client.zero(4096, 4096)
client.zero(16384, 4096, punch_hole=False)
for at in (4096, 16384):
    assert client.read(at - 1, 4098) == b"z" + bytes(4096) + b"z", at
"""
    _run(rig, code)


SPARSE = "client.zero(0, 8 << 20)\nclient.write(1 << 20, b'd' * 65536)\n"


@CLIENT.can(f.STRUCTURED)
def _structured(rig: Rig) -> None:
    code = "expected = bytes(1 << 20) + b'd' * 65536 + bytes((3 << 20) - 65536)\n"
    _run(rig, SPARSE + code + "assert client.read(0, 4 << 20) == expected")


@CLIENT.can(f.STATUS)
def _status(rig: Rig) -> None:
    code = """
found = [(each.length, each.flags) for each in client.extents(0, 4 << 20)["base:allocation"]]
assert found == [(1 << 20, 3), (65536, 0), ((3 << 20) - 65536, 3)], found
"""
    _run(rig, SPARSE + code)


@CLIENT.can(f.UNALIGNED)
def _unaligned(rig: Rig) -> None:
    code = "client.zero(0, 64)\nclient.write(5, b'abc')\nclient.zero(6, 1)\n"
    _run(rig, code + "assert client.read(4, 5) == b'\\0a\\0c\\0'")


def _large(rig: Rig, mib: int) -> None:
    code = f"data = bytes(range(256)) * ({mib} << 12)\nclient.write(777, data)\n"
    _run(rig, code + "assert client.read(777, len(data)) == data")


@CLIENT.can(f.MIB_32)
def _mib_32(rig: Rig) -> None:
    _large(rig, 32)


@CLIENT.can(f.MIB_64)
def _mib_64(rig: Rig) -> None:
    _large(rig, 64)


@CLIENT.can(f.FOUR)
def _four(rig: Rig) -> None:
    code = """
clients = [Client(where, sys.argv[2]) for _ in range(4)]
for number, each in enumerate(clients):
    each.write(number << 20, bytes([number + 1]) * 4096)
    each.flush()
assert all(each.read(number << 20, 1) == bytes([number + 1])
           for each in clients for number in range(4))
for each in clients:
    each.close()
"""
    _run(rig, code)
