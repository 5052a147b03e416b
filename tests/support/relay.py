"""A network in user space: hosts are network namespaces, and a relay between them delays every
frame and drops some.

    python -m tests.support.relay CONFIGURATION

with a configuration such as

    {"hosts": ["client", "alpha"], "delay_s": 0.005, "loss": 0.02, "seed": 1}

Each host has an interface `eth0` with the address 10.77.0.N, N counted from 1. Its frames come out
of the other end of a veth pair here, wait for `delay_s`, and go on to the host they are for, unless
they are lost. The kernel's TCP on both sides meets real delay and real loss.

Commands are lines on stdin, each answered by a line of JSON: `cut HOST` (from now on it hears and
is not heard), `join HOST`, `stats`. The end of stdin is the end of it all: the namespaces
live as long as a process in them, and those hang on this one.
"""

from __future__ import annotations

import array
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

NETWORK = "10.77.0"
MAC_PREFIX = bytes.fromhex("020000000000")[:5]
_ETH_P_ALL = 3
_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17
_FRAME_BYTES_MAX = 65536
_FRAMES_AT_ONCE = 64


def address(number: int) -> str:
    """Of the host with this number, from 0."""
    return f"{NETWORK}.{number + 1}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _whole_checksums(interface: str) -> None:
    """Have the kernel put checksums, and so whole segments, into frames: nobody after the relay
    would.
    """
    value = array.array("I", [_ETHTOOL_STXCSUM, 0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(
            sock, _SIOCETHTOOL, struct.pack("16sP", interface.encode(), value.buffer_info()[0])
        )


class Host:
    """A namespace, held by a process that ends when this one does, and our end of its cable."""

    def __init__(self, number: int, name: str) -> None:
        self.name = name
        self.mac = MAC_PREFIX + bytes([number + 1])
        self.apart = False
        here, there = f"h{number}", f"p{number}"
        self.holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.holder.stdout is not None
        self.holder.stdout.readline()  # it is in its namespace
        _ip("link", "add", here, "type", "veth", "peer", "name", there)
        _whole_checksums(there)
        _ip("link", "set", there, "netns", str(self.holder.pid))
        inside = (
            f"ip link set {there} name eth0 address {self.mac.hex(':')} && ip addr add "
            f"{address(number)}/24 dev eth0"
        )
        inside += " && ip link set lo up && ip link set eth0 up"
        subprocess.run(
            ["nsenter", "--target", str(self.holder.pid), "--net", "sh", "-c", inside], check=True
        )
        _ip("link", "set", here, "up")
        self.cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self.cable.bind((here, 0))
        self.cable.setblocking(False)


@dataclass(order=True)
class Frame:
    """A frame in flight."""

    due: float
    number: int
    data: bytes = field(compare=False)
    to: Host = field(compare=False)
    source: Host = field(compare=False)


class Relay:
    """The hosts, and the frames between them."""

    def __init__(self, hosts: list[str], delay_s: float, loss: float, seed: int) -> None:
        self._hosts = [Host(number, name) for number, name in enumerate(hosts)]
        self._delay_s = delay_s
        self._loss = loss
        self._random = random.Random(seed)
        self._waiting: list[Frame] = []
        self.passed = 0
        self.lost = 0

    def pids(self) -> dict[str, int]:
        """A process in each host's namespace."""
        return {host.name: host.holder.pid for host in self._hosts}

    def run(self) -> None:
        """Run until stdin ends."""
        cables = {host.cable.fileno(): host for host in self._hosts}
        poll = select.epoll()
        for descriptor in [*cables, 0]:
            poll.register(descriptor, select.EPOLLIN)
        while True:
            for descriptor, _ in poll.poll(self._patience()):
                if descriptor:
                    self._take(cables[descriptor])
                elif not self._obey(os.read(0, 4096)):
                    return
            self._deliver()

    def _patience(self) -> float | None:
        return max(0.0, self._waiting[0].due - time.monotonic()) if self._waiting else None

    def _take(self, source: Host) -> None:
        for _ in range(_FRAMES_AT_ONCE):
            try:
                data, about = source.cable.recvfrom(_FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            if about[2] == socket.PACKET_OUTGOING:
                continue
            to_all = data[0] & 1
            for host in self._hosts:
                if host is not source and (to_all or host.mac == data[:6]):
                    self._forward(
                        Frame(
                            time.monotonic() + self._delay_s,
                            self.passed + self.lost,
                            data,
                            host,
                            source,
                        )
                    )

    def _forward(self, frame: Frame) -> None:
        if self._random.random() < self._loss:
            self.lost += 1
        else:
            self.passed += 1
            heapq.heappush(self._waiting, frame)

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0].due <= now:
            frame = heapq.heappop(self._waiting)
            if not (frame.to.apart or frame.source.apart):
                try:
                    frame.to.cable.send(frame.data)
                except OSError:
                    self.lost += 1  # no room on the cable

    def _obey(self, text: bytes) -> bool:
        for line in text.decode().splitlines():
            verb, _, name = line.partition(" ")
            for host in self._hosts:
                if host.name == name:
                    host.apart = verb == "cut"
            say({"passed": self.passed, "lost": self.lost})
        return bool(text)


def say(what: dict[str, Any]) -> None:
    """One line of JSON to the parent process."""
    print(json.dumps(what), flush=True)


def main() -> None:
    """See the top of this file."""
    relay = Relay(**json.loads(sys.argv[1]))
    say(relay.pids())
    relay.run()


if __name__ == "__main__":
    main()
