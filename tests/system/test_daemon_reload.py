"""SIGHUP: what is new appears, what cannot change is refused by name and then nothing changes."""

from __future__ import annotations

import json
import signal
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import PATIENCE_SECONDS, Daemon, DaemonFiles, free_port
from tests.support.sockets import Talk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def reload(daemon: Daemon) -> dict[str, Any]:
    """Send SIGHUP; the line of the log that says how it went."""
    before = len(daemon.lines())
    daemon.signal(signal.SIGHUP)
    answer: dict[str, Any] = json.loads(daemon.wait_log('"event": "reload', after=before))
    return answer


def greeting(address: tuple[str, int] | Path) -> bytes:
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    with socket.socket(family) as sock:
        sock.settimeout(PATIENCE_SECONDS)
        sock.connect(address if isinstance(address, tuple) else str(address))
        return sock.recv(8)


def names(daemon: Daemon, kind: str) -> list[str]:
    return [each["name"] for each in daemon.request("GET", "/v1/status")[1][kind]]


def test_new_volumes_and_groups_are_served(daemon: Daemon) -> None:
    files = daemon.files
    files.volumes = {"data": "8MiB", "wal": "4MiB"}
    files.groups = {"db": ["data", "wal"]}
    files.write()
    answer = reload(daemon)
    assert answer["event"] == "reloaded"
    assert any("wal" in change for change in answer["changes"])
    assert names(daemon, "volumes") == ["data", "wal"]
    assert names(daemon, "groups") == ["db"]
    assert files.primary("wal").stat().st_size == 4 << 20
    status, cut = daemon.request("POST", "/v1/suspend", {"targets": ["db"]})
    assert (status, cut["verdict"]) == (200, "consistent")
    assert daemon.stop() == 0
    daemon.start()
    assert names(daemon, "volumes") == ["data", "wal"]


def test_an_unchanged_file_changes_nothing(daemon: Daemon) -> None:
    answer = reload(daemon)
    assert (answer["event"], answer["changes"]) == ("reloaded", [])


def test_listeners_are_added_and_removed(daemon: Daemon) -> None:
    files = daemon.files
    files.tcp_port = free_port()
    files.write()
    with closing(Talk(files.nbd_socket, "data")) as old:
        assert reload(daemon)["changes"] == [f"listening on tcp:127.0.0.1:{files.tcp_port}"]
        assert greeting(("127.0.0.1", files.tcp_port)) == b"NBDMAGIC"
        files.config.write_text(
            files.config.read_text().replace(f'"unix:{files.nbd_socket}", ', "")
        )
        assert reload(daemon)["changes"] == [f"no longer listening on unix:{files.nbd_socket}"]
        assert not files.nbd_socket.exists()
        assert old.read(0, 4096) == bytes(4096), "a connection stays"


REFUSED: dict[str, tuple[str, str, str]] = {
    "size": ('size = "8MiB"', 'size = "16MiB"', "volumes.data.size"),
    "primary": ("/a/data.img", "/a/other.img", "volumes.data.primary"),
    "journal_size": ('"16MiB"', '"32MiB"', "controller.journal_size"),
    "state_dir": ('/state"', '/state2"', "controller.state_dir"),
    "name": ('name = "test"', 'name = "new"', "controller.name"),
    "control socket": ("/ctl.sock", "/ctl2.sock", "control.socket"),
    "unknown key": ("[nbd]", "[nbd]\ncolour = 1", "nbd.colour: unknown key"),
    "not TOML": ("[nbd]", "[nbd", "not TOML"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_change_of_a_fixed_value_is_refused_by_key_and_nothing_changes(
    case: str, daemon: Daemon
) -> None:
    old, new, key = REFUSED[case]
    files = daemon.files
    files.volumes = {"data": "8MiB", "wal": "4MiB"}  # this one could be made
    files.tcp_port = free_port()  # and so could this
    text = files.write().config.read_text()
    assert old in text
    files.config.write_text(text.replace(old, new, 1))
    answer = reload(daemon)
    assert answer["event"] == "reload refused, nothing changed"
    assert answer["level"] == "error"
    assert len(answer["problems"]) == 1
    assert answer["problems"][0].startswith(f"{files.config}: {key}"), answer
    assert names(daemon, "volumes") == ["data"]
    assert not files.primary("wal").exists()
    with pytest.raises(ConnectionRefusedError):
        greeting(("127.0.0.1", files.tcp_port))
    assert greeting(files.nbd_socket) == b"NBDMAGIC"
    assert daemon.stop() == 0


def test_a_listener_that_cannot_be_bound_is_refused(daemon: Daemon) -> None:
    files = daemon.files
    files.tcp_port = free_port()
    files.volumes = {"data": "8MiB", "wal": "4MiB"}
    files.write()
    with socket.create_server(("127.0.0.1", files.tcp_port)):
        answer = reload(daemon)
    assert answer["event"] == "reload refused, nothing changed"
    assert "nbd.listen" in answer["problems"][0]
    assert names(daemon, "volumes") == ["data"]
    # and with the port free, the same file is taken
    assert reload(daemon)["event"] == "reloaded"
    assert names(daemon, "volumes") == ["data", "wal"]


def test_a_missing_configuration_file_is_refused(daemon: Daemon) -> None:
    daemon.files.config.unlink()
    answer = reload(daemon)
    assert answer["event"] == "reload refused, nothing changed"
    assert daemon.request("GET", "/readyz")[0] == 200


def test_repeated_signals_are_each_handled(
    daemon: Daemon, make_files: Callable[..., DaemonFiles]
) -> None:
    for _ in range(20):
        daemon.signal(signal.SIGHUP)
    assert reload(daemon)["event"] == "reloaded"
    assert daemon.stop() == 0
