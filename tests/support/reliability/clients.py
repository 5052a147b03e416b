"""What clients see: fio with verification while the fault comes, single requests while it lasts,
and an ext4 file system that is read at the end.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import subprocess
from typing import TYPE_CHECKING

from duplexd.nbd_aio.connecting import connect
from tests.support.daemon import PATIENCE_SECONDS
from tests.support.reliability.rig import FS_BYTES, LOAD_BYTES, PROBED

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from tests.support.reliability.rig import Rig

PROBE_BYTES = 64 << 10
ANSWER_SECONDS_MAX = 20.0  # more than the time-outs of the rig, however busy the machine is
_FIO = [
    "fio",
    "--name=load",
    "--ioengine=nbd",
    "--rw=randrw",
    "--rwmixread=30",
    "--bs=64k",
    f"--size={LOAD_BYTES}",
    "--iodepth=8",
    "--verify=crc32c",
    "--verify_fatal=1",
    "--serialize_overlap=1",
]
_FIO_ERROR = re.compile(r"io_u error on file .*: (.*): (read|write|sync|datasync) offset")


class Load:
    """fio, which reads back and checks what it wrote."""

    def __init__(self, rig: Rig) -> None:
        command = [*_FIO, f"--uri={rig.files.uri('data')}"]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=rig.files.directory,
        )

    async def seen(self) -> str:
        """Wait until it ends; the errors it got, or "" if all went well and what it read was what
        it wrote.
        """
        try:
            output, _ = await asyncio.to_thread(self._process.communicate, None, PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"fio has not ended after {PATIENCE_SECONDS} s") from None
        if self._process.returncode == 0:
            return ""
        errors = {
            f"{operation} {errno_name(text)}" for text, operation in _FIO_ERROR.findall(output)
        }
        assert errors, f"fio ended with {self._process.returncode}\n{output}"
        return ", ".join(sorted(errors))

    def end(self) -> None:
        """Not any more."""
        self._process.kill()
        self._process.communicate()


def errno_name(text: str) -> str:
    """EIO of "Input/output error"."""
    return next(name for number, name in errno.errorcode.items() if os.strerror(number) == text)


async def outcome(request: Awaitable[object]) -> str:
    """What came of it: "ok", the name of the error, or "waits"."""
    try:
        await asyncio.wait_for(request, ANSWER_SECONDS_MAX)
    except TimeoutError:
        return "waits"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)
    return "ok"


async def probe(rig: Rig, volume: str) -> dict[str, str]:
    """One request of each kind: what came of it."""
    try:
        nbd = await connect(rig.files.uri(volume))
    except OSError:
        return {"connect": "refused"}
    place = PROBED if volume == "data" else 0
    try:
        read, write, flush = await asyncio.gather(
            outcome(nbd.read(place, PROBE_BYTES)),
            outcome(nbd.write(place + PROBE_BYTES, os.urandom(PROBE_BYTES))),
            outcome(nbd.flush()),
        )
        return {"read": read, "write": write, "flush": flush}
    finally:
        nbd.abort()


# --- ext4


def make_ext4(rig: Rig) -> None:
    """Put a file system with some content on `fs`."""
    source = rig.files.directory / "source"
    source.mkdir()
    (source / "file").write_bytes(os.urandom(1 << 20))
    image = rig.files.directory / "fs.raw"
    with image.open("wb") as file:
        file.truncate(FS_BYTES)
    run("mkfs.ext4", "-q", "-F", "-d", source, image)
    run("nbdcopy", image, rig.files.uri("fs"))


def check_ext4(directory: Path, image: bytes) -> None:
    """It is clean and has the content."""
    path = directory / "fs.check"
    path.write_bytes(image)
    run("e2fsck", "-fn", path)
    run("debugfs", "-R", f"dump /file {directory}/file.check", path)
    assert (directory / "file.check").read_bytes() == (directory / "source/file").read_bytes()


def run(*command: str | Path, status: int = 0) -> None:
    """A tool that ends with this status."""
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(
        [str(word) for word in command],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env=env,
    )
    assert done.returncode == status, f"{command}: {done.stdout}{done.stderr}"
