"""One connection of each client that can be driven write by write, in a process of its own.

Every driver understands lines `write OFFSET PATTERN` and `read OFFSET PATTERN`, of one block of
4 KiB of that byte, and answers `ok` or what went wrong; qemu-io is spoken to in its own words.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

from tests.support.matrix import ovirt
from tests.support.matrix.raw import CLIENT as RAW

if TYPE_CHECKING:
    from tests.support.matrix.rig import Rig

BLOCK = 4096
_LOOP = """
for line in sys.stdin:
    verb, offset, pattern = line.split()
    data = bytes([int(pattern)]) * 4096
    try:
        if verb == "write":
            write(int(offset), data)
        elif read(int(offset), 4096) != data:
            print("another content", flush=True)
            continue
        print("ok", flush=True)
    except Exception as error:
        print("failed:", str(error).replace(chr(10), " "), flush=True)
        break
"""
_LIBNBD = """
import sys, nbd
h = nbd.NBD()
h.set_export_name(sys.argv[2])
h.connect_unix(sys.argv[1])
write, read = lambda offset, data: h.pwrite(data, offset), lambda at, length: h.pread(length, at)
"""
_RAW = """
import socket, sys
from tests.support.matrix.raw import Raw
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
raw = Raw(sock)
raw.go(sys.argv[2])
write, read = raw.write, raw.read
"""
_OVIRT = (
    ovirt.BEGIN
    + """
write, read = (lambda offset, data: client.write(offset, data)), client.read
"""
)


_QEMU_IO = ["stdbuf", "-oL", "qemu-io", "-t", "none", "--image-opts"]


class Talker(Protocol):
    """`write` and `read` return "" or what went wrong."""

    def write(self, block: int, pattern: int) -> str: ...
    def read(self, block: int, pattern: int) -> str: ...
    def close(self) -> None: ...


class Driver:
    """Of the lines above."""

    def __init__(self, rig: Rig, interpreter: str, code: str, volume: str) -> None:
        self._process = subprocess.Popen(
            [interpreter, "-c", code + _LOOP, rig.socket, volume],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=rig.env(), bufsize=1,
        )  # fmt: skip

    def write(self, block: int, pattern: int) -> str:
        return self._say("write", block, pattern)

    def read(self, block: int, pattern: int) -> str:
        return self._say("read", block, pattern)

    def close(self) -> None:
        self._process.communicate()

    def _say(self, verb: str, block: int, pattern: int) -> str:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{verb} {block * BLOCK} {pattern}\n")
            answer = process.stdout.readline().strip()
        except BrokenPipeError:
            answer = ""
        return "" if answer == "ok" else answer or "the client ended"


class QemuIo:
    """qemu-io that connects again within a minute, as a virtual machine may be set to. stdbuf: it
    would keep its answers in a buffer, since it writes to a pipe.
    """

    def __init__(self, rig: Rig, volume: str) -> None:
        image = f"driver=nbd,server.type=unix,server.path={rig.socket},export={volume}"
        self._process = subprocess.Popen(
            [*_QEMU_IO, f"{image},reconnect-delay=60"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=rig.env(), bufsize=1,
        )  # fmt: skip

    def write(self, block: int, pattern: int) -> str:
        return self._say(f"write -P {pattern} {block * BLOCK} {BLOCK}")

    def read(self, block: int, pattern: int) -> str:
        return self._say(f"read -P {pattern} {block * BLOCK} {BLOCK}")

    def close(self) -> None:
        self._process.communicate("quit\n")

    def _say(self, command: str) -> str:
        """The last line of an answer is `... ops; ...`, or says what failed."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{command}\n")
        wrong = ""
        while line := process.stdout.readline():
            if "Pattern verification failed" in line:
                wrong = "another content"
            elif "failed" in line:
                return line.strip()
            elif " ops;" in line:
                return wrong
        return "the client ended"


def talker(rig: Rig, key: str) -> Talker:
    """Of that client, on its volume."""
    if key == "qemu":
        return QemuIo(rig, key)
    interpreter = "/usr/bin/python3" if key == "libnbd" else sys.executable
    code = {"libnbd": _LIBNBD, ovirt.CLIENT.key: _OVIRT, RAW.key: _RAW}[key]
    return Driver(rig, interpreter, code, key)


TALKERS = ("libnbd", "qemu", ovirt.CLIENT.key, RAW.key)
