"""fio's nbd engine, which is made of libnbd. Every run verifies what it wrote."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from tests.support.matrix import features as f
from tests.support.matrix.rig import FIXED, MIB, NAMED, UNKNOWN

if TYPE_CHECKING:
    from tests.support.matrix.rig import Rig


def _version() -> str:
    done = subprocess.run(["fio", "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip().replace("fio-", "fio ")


CLIENT = f.Client("fio", "fio", _version)
CLIENT.lacks("its nbd engine does not ask for it", f.LIST, f.EXPORT_NAME, f.STATUS)
CLIENT.lacks("it takes certificates from a directory of the system only", f.TLS12, f.TLS13)
CLIENT.lacks("its nbd engine has no such request", f.ZEROES, f.EXTENDED)
CLIENT.lacks("its nbd engine sends neither for fsync and fdatasync", f.FLUSH)
VERIFY = ["--verify=crc32c", "--verify_fatal=1", "--serialize_overlap=1"]


def run(rig: Rig, uri: str, *options: str, status: int = 0) -> None:
    """One job; fio ends with an error if a check fails."""
    where = ["--name=v", "--ioengine=nbd", f"--uri={uri}"]
    rig.run("fio", *where, *options, status=status)


def _writes(rig: Rig, uri: str, size: str = "8m") -> None:
    options = ["--rw=randwrite", "--bsrange=512-128k", f"--size={size}", "--iodepth=32"]
    run(rig, uri, *options, *VERIFY)


@CLIENT.can(f.UNIX)
def _unix(rig: Rig) -> None:
    _writes(rig, rig.unix(CLIENT.key))


@CLIENT.can(f.TCP)
def _tcp(rig: Rig) -> None:
    _writes(rig, rig.tcp(CLIENT.key))


@CLIENT.can(f.NAMES)
def _names(rig: Rig) -> None:
    for name in NAMED:
        _writes(rig, rig.unix(name), size="1m")
    for name in UNKNOWN:
        run(rig, rig.unix(name), "--rw=read", "--size=1m", status=1)


@CLIENT.can(f.READ_ONLY)
def _read_only(rig: Rig) -> None:
    run(rig, rig.unix(FIXED), "--rw=read", "--bs=64k", "--size=1m")
    run(rig, rig.unix(FIXED), "--rw=write", "--bs=64k", "--size=1m", status=1)


@CLIENT.can(f.TRIM)
def _trim(rig: Rig) -> None:
    run(rig, rig.unix(CLIENT.key), "--rw=trim", "--bs=64k", "--size=4m")


@CLIENT.can(f.TRIM_4G)
def _trim_4g(rig: Rig) -> None:
    length = (1 << 32) - 512
    run(rig, rig.unix(CLIENT.key), "--rw=trim", f"--bs={length}", f"--size={length}")


@CLIENT.can(f.STRUCTURED)
def _structured(rig: Rig) -> None:
    """They are negotiated by libnbd, for fio."""
    options = ["--rw=write", "--bs=1m", "--size=16m", "--iodepth=4"]
    run(rig, rig.unix(CLIENT.key), *options, *VERIFY)


@CLIENT.can(f.UNALIGNED)
def _unaligned(rig: Rig) -> None:
    options = ["--rw=randwrite", "--bsrange=513-9999", "--bs_unaligned=1", "--size=4m"]
    run(rig, rig.unix(CLIENT.key), *options, "--iodepth=8", *VERIFY)


def _large(rig: Rig, mib: int) -> None:
    options = ["--rw=write", f"--bs={mib}m", f"--size={2 * mib}m", "--iodepth=2"]
    run(rig, rig.unix(CLIENT.key), *options, *VERIFY)


@CLIENT.can(f.MIB_32)
def _mib_32(rig: Rig) -> None:
    _large(rig, 32)


@CLIENT.can(f.MIB_64)
def _mib_64(rig: Rig) -> None:
    _large(rig, 64)


@CLIENT.can(f.FOUR)
def _four(rig: Rig) -> None:
    report = rig.directory / "fio.json"
    options = ["--rw=randwrite", "--bs=4k", "--size=4m", "--iodepth=16"]
    jobs = ["--numjobs=4", "--offset_increment=4m", "--output-format=json", f"--output={report}"]
    run(rig, rig.unix(CLIENT.key), *options, *jobs, *VERIFY)
    written = [job["write"]["io_bytes"] for job in json.loads(report.read_text())["jobs"]]
    assert written == [4 * MIB] * 4
