"""systemd's protocols, spoken to a socket and an environment of the test's own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime.notify import listening_sockets, notify, watchdog_interval_s

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("abstract", [False, True])
def test_notify_reaches_the_service_manager(tmp_path: Path, abstract: bool) -> None:
    name = f"duplexd-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name if abstract else name)
        manager.settimeout(60)
        assert notify(
            "READY=1\nSTATUS=serving", {"NOTIFY_SOCKET": "@" + name if abstract else name}
        )
        assert manager.recv(1000) == b"READY=1\nSTATUS=serving"


@pytest.mark.parametrize("address", [None, "", "relative", "/nowhere/to/be/found"])
def test_without_a_manager_nothing_happens(address: str | None) -> None:
    assert not notify("READY=1", {} if address is None else {"NOTIFY_SOCKET": address})


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_is_fed_twice_as_often_as_it_bites(
    environment: dict[str, str], interval_s: float | None
) -> None:
    assert watchdog_interval_s(environment) == interval_s


PROGRAM = """
import os, socket, sys
from duplexd.runtime.notify import listening_sockets
for place, fd in enumerate([os.dup2(int(fd), 100 + number) for number, fd in enumerate(sys.argv[2:])]):
    os.dup2(fd, 3 + place)  # where a service manager puts them
os.environ["LISTEN_PID"] = str(os.getpid()) if sys.argv[1] == "mine" else "1"
for name, found in listening_sockets():
    print(name, found.getsockname()[1], found.get_inheritable())
print(sorted(name for name in os.environ if name.startswith("LISTEN_")))
"""


@pytest.mark.parametrize("owner", ["mine", "another's"])
def test_sockets_are_taken_from_the_manager_once_and_only_if_meant_for_us(owner: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("127.0.0.1", 0)) as second,
    ):
        ports = [first.getsockname()[1], second.getsockname()[1]]
        passed = (first.fileno(), second.fileno())
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, owner, *map(str, passed)],
            pass_fds=passed,
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "nbd"},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
    expected = (
        f"nbd {ports[0]} False\nunknown {ports[1]} False\n[]\n" if owner == "mine" else "[]\n"
    )
    assert done.stdout == expected


def test_no_sockets_were_passed() -> None:
    assert listening_sockets({}) == []
    assert listening_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"}) == []
