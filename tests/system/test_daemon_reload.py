"""SIGHUP: new volumes, groups and listeners are served; a change of a fixed value is refused by
key, and nothing changes.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from duplexd.journal import checkpoint_file
from duplexd.journal.format import SEGMENT_HEADER_BYTES, WRITE
from duplexd.journal.inspect import Untouched
from duplexd.journal.scan import records
from duplexd.journal.segment import Ring
from duplexd.runtime.disk import RealDisk
from tests.support.daemon import (
    PATIENCE_SECONDS,
    Daemon,
    DaemonFiles,
    UnixConnection,
    free_port,
    run_duplexctl,
    run_duplexd,
)
from tests.support.sockets import Talk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from duplexd.runtime.disk import Disk


def reload(daemon: Daemon) -> dict[str, Any]:
    """Send SIGHUP; returns the line of the log with the outcome."""
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
        assert reload(daemon)["changes"] == [
            "nbd.insecure: was false, is true",
            f"listening on tcp:127.0.0.1:{files.tcp_port}",
        ]
        assert greeting(("127.0.0.1", files.tcp_port)) == b"NBDMAGIC"
        files.config.write_text(
            files.config.read_text().replace(f'"unix:{files.nbd_socket}", ', "")
        )
        assert reload(daemon)["changes"] == [f"no longer listening on unix:{files.nbd_socket}"]
        assert not files.nbd_socket.exists()
        assert old.read(0, 4096) == bytes(4096), "a connection stays"


def test_a_socket_whose_file_was_removed_is_made_again(daemon: Daemon) -> None:
    files = daemon.files
    with closing(Talk(files.nbd_socket, "data")) as old:
        files.nbd_socket.unlink()
        changes = [f"listening on unix:{files.nbd_socket} again: its file was gone"]
        assert reload(daemon)["changes"] == changes
        with closing(Talk(files.nbd_socket, "data")) as new:
            assert new.read(0, 4096) == bytes(4096)
        assert old.read(0, 4096) == bytes(4096), "a connection stays"
    assert reload(daemon)["changes"] == []


def test_the_control_socket_is_made_again_by_a_signal(daemon: Daemon) -> None:
    files = daemon.files
    follower = UnixConnection(files.control_socket)
    with closing(follower):
        follower.connect()
        files.control_socket.unlink()
        daemon.signal(signal.SIGHUP)
        daemon.wait_log(f"listening on unix:{files.control_socket} again: its file was gone")
        assert reload(daemon)["changes"] == []
        follower.request("GET", "/healthz")
        assert follower.getresponse().status == 200, "a connection stays"


@pytest.mark.long  # the sockets are looked at every half minute
def test_a_socket_that_was_removed_is_not_well_until_a_reload(daemon: Daemon) -> None:
    assert "socket-removed" not in daemon.log()
    daemon.files.nbd_socket.unlink()
    daemon.wait_log('"event": "not well"', "socket-removed", seconds=2 * PATIENCE_SECONDS)
    assert run_duplexctl(daemon.files, "health", "--service").returncode == 1
    reload(daemon)
    daemon.wait_log('"event": "well again"', "socket-removed", seconds=2 * PATIENCE_SECONDS)


REFUSED: dict[str, tuple[str, str, str]] = {
    "size": ('size = "8MiB"', 'size = "4MiB"', "volumes.data.size"),
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


def ctl(daemon: Daemon, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = run_duplexctl(daemon.files, "--json", *arguments)
    return done.returncode, json.loads(done.stdout)


def test_the_disk_of_a_secondary_is_replaced_while_fio_writes_and_verifies(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    """No client sees an error, the new image is DUPLEX, and the old one is at the number said."""
    files = make_files(journal_size="1GiB")
    daemon = start_daemon(files)
    old, new = files.secondary_of("data"), files.directory / "c" / "data.img"
    new.parent.mkdir()
    with writing(files.uri("data")) as fio:
        while daemon.request("GET", "/v1/status")[1]["controller"]["sequence"] < 100:
            assert fio.poll() is None, fio.communicate()
        files.config.write_text(files.text().replace(str(old), str(new)))
        code, answer = ctl(daemon, "reload")
        assert (code, answer["changes"][0]) == (0, f"volume data: secondary replaced by {new}")
        journal = shutil.copytree(files.state_dir, files.directory / "then")
        left = old.read_bytes()
        assert run_duplexctl(files, "resync", "data", "--wait").returncode == 0
        assert fio.poll() is None, "it writes on"
        fio.send_signal(signal.SIGINT)
        output, _ = fio.communicate(timeout=PATIENCE_SECONDS)
        assert "err= 0" in output, output
    assert ctl(daemon, "verify", "data")[0] == 0
    assert left == old.read_bytes(), "nothing writes to it any more"
    event = json.loads(daemon.wait_log('"event": "secondary-left"'))
    assert answer["changes"][1].endswith(f"{old} is left at number {event['at']}")
    assert left == content_at(journal, event["at"])


@contextmanager
def writing(uri: str) -> Iterator[subprocess.Popen[str]]:
    """fio, which verifies what it wrote, until it is interrupted."""
    fio = subprocess.Popen(
        ["fio", "--name=v", "--ioengine=nbd", f"--uri={uri}", "--thread", "--rw=randwrite",
         "--bs=4k", "--size=8M", "--iodepth=8", "--verify=crc32c", "--verify_fatal=1",
         "--verify_backlog=64", "--verify_state_save=0",
         "--time_based", "--runtime=3600", "--rate_iops=500"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield fio
    finally:
        fio.kill()
        fio.communicate()


def content_at(state_dir: Path, number: int) -> bytes:
    """A volume of 8 MiB as it was after so many records of a journal that still has all of them."""
    saved = checkpoint_file.unpack((state_dir / "checkpoint").read_bytes(), "checkpoint")
    disk, identity = cast("Disk", Untouched(RealDisk())), bytes.fromhex(saved["controller"])
    ring = Ring(disk, str(state_dir / "journal"), identity, saved["segment_size"], 0)
    ring.open_existing()
    content, segments = bytearray(8 << 20), [each for each in ring.live if each.first]
    assert segments[0].first == 1
    for segment in segments:
        buffer = segment.file.read(0, segment.size)
        for record in records(buffer, SEGMENT_HEADER_BYTES, segment.first, segment.chain):
            if record.kind == WRITE and record.sequence <= number:
                data = buffer[record.payload_start : record.end]
                content[record.offset : record.offset + len(data)] = data
    return bytes(content)


def test_a_refused_reload_has_an_exit_code_and_stays_in_the_status_line(daemon: Daemon) -> None:
    files = daemon.files
    files.config.write_text(files.text().replace('journal_size = "16MiB"', "journal_size = 1"))
    assert ctl(daemon, "reload")[0] == 6
    files.config.write_text(files.text().replace('journal_size = "16MiB"', 'journal_size = "1GiB"'))
    code, problem = ctl(daemon, "reload")
    assert code == problem["exit_code"] == 5
    assert "controller.journal_size: was '16MiB', is now '1GiB'" in problem["detail"]
    files.write()
    assert ctl(daemon, "reload") == (0, {"applied": True, "changes": []})


# ------------------------------------------------------------------------------- what check says


def test_check_names_an_image_that_is_gone_under_a_daemon_that_runs(daemon: Daemon) -> None:
    files = daemon.files
    image = files.secondary_of("data")
    image.unlink()
    checked = run_duplexd("check", "--config", str(files.config))
    assert f"volumes.data.secondary: {image}: " in checked.stderr, checked.stderr


def test_check_has_nothing_to_say_of_the_secondary_that_a_volume_does_not_have(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    files = make_files(secondary=False)
    start_daemon(files)
    checked = run_duplexd("check", "--config", str(files.config))
    assert checked.returncode == 0, checked.stderr
    assert "secondary" not in checked.stderr


def test_check_names_an_image_that_a_reload_has_left_also_without_a_daemon(daemon: Daemon) -> None:
    files = daemon.files
    left, new = files.secondary_of("data"), files.secondary_of("data").with_name("new.img")
    before = files.config.read_text()
    files.config.write_text(before.replace(str(left), str(new)))
    assert run_duplexctl(files, "reload").returncode == 0
    assert run_duplexctl(files, "resync", "data", "--wait").returncode == 0
    assert daemon.stop() == 0
    files.config.write_text(before)
    checked = run_duplexd("check", "--config", str(files.config))
    assert f"{left}: this image was part of volume data once" in checked.stderr, checked.stderr
