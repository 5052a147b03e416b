"""The protocols of systemd, spoken to a socket and an environment of the test's own."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime.notify import let_watchdog_wait, notify, watchdog_interval_s

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
def test_the_watchdog_is_fed_twice_in_its_time(
    environment: dict[str, str], interval_s: float | None
) -> None:
    assert watchdog_interval_s(environment) == interval_s


@pytest.mark.parametrize(
    ("set_up", "seconds", "asked"),
    [
        ("30000000", 120.0, b"WATCHDOG_USEC=120000000"),
        ("300000000", 120.0, b"WATCHDOG_USEC=300000000"),
        ("30000000", 0.0, b"WATCHDOG_USEC=30000000"),
        ("0", 120.0, b""),
    ],
)
def test_the_watchdog_never_waits_for_less_than_it_was_set_up_to(
    tmp_path: Path, set_up: str, seconds: float, asked: bytes
) -> None:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": set_up}
        let_watchdog_wait(seconds, environment)
        notify("READY=1", environment)
        manager.settimeout(60)
        found = [manager.recv(1000), manager.recv(1000) if asked else b""]
        assert found == ([asked, b"READY=1"] if asked else [b"READY=1", b""])
