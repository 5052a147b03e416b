"""The Linux kernel's own NBD client, with ext4 on two volumes of one group, while the host
suspends, resyncs and quiesces that group.
"""

from __future__ import annotations

import filecmp
import json
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.limits import HOLD_SECONDS_MAX
from tests.support.daemon import PATIENCE_SECONDS, free_port, run_duplexctl
from tests.vm.checker import check_cut, check_dependencies
from tests.vm.guest_device import PATTERN_BYTES, REPEATED_BYTES, SECTOR_BYTES, GuestDevice
from tests.vm.guest_volumes import GuestVolumes
from tests.vm.images import read_images
from tests.vm.tools import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles
    from tests.vm.machine import Machine

    Connect = Callable[[int], GuestVolumes]  # with so many connections a volume

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1500)]

VOLUMES = ["tables", "log"]  # in the order in which the writer uses them
SUSPENDS = 2
JOURNAL_MIB = 16
QUIESCE_SECONDS = 8  # of the ten that a hold may last
QUIESCES_MAX = 10
NAIVE_TRIES = 4
GIB = 1 << 30
BARE_BYTES = 5 * GIB
FIXED = '[volumes.fixed]\nsize = "1MiB"\nprimary = "fixed.img"\nread_only = true\n'


@pytest.fixture
def mode() -> str:
    return "sync"


@pytest.fixture
def daemon(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[[DaemonFiles], Daemon], mode: str
) -> Daemon:
    sizes = dict.fromkeys(VOLUMES, "64MiB")
    files = make_files(
        volumes=sizes,
        groups={"db": VOLUMES},
        mode=mode,
        journal_size=f"{JOURNAL_MIB}MiB",
        tcp_port=free_port(),
    )
    return start_daemon(files)


@pytest.fixture
def connect(machine: Machine, daemon: Daemon) -> Iterator[Connect]:
    """Connects the guest; takes its devices away again however the test ends, so that the next one
    finds them free.
    """

    def connected(connections: int) -> GuestVolumes:
        port = daemon.files.tcp_port
        assert port
        volumes = GuestVolumes(machine, port, VOLUMES, connections)
        volumes.connect()
        volumes.make_file_systems()
        volumes.start_writer()
        volumes.wait_for_files(2)
        return volumes

    yield connected
    machine.run(GuestVolumes(machine, 0, VOLUMES).clean_up_command())


@pytest.mark.parametrize(("connections", "mode"), [(2, "sync"), (1, "async")])
def test_group_suspended_while_linux_writes(
    connect: Connect, daemon: Daemon, tmp_path: Path, connections: int
) -> None:
    volumes = connect(connections)
    wanted, deadline = [connections] * len(VOLUMES), time.monotonic() + PATIENCE_SECONDS
    while (
        found := [volume["connections"] for volume in status(daemon)]
    ) != wanted:  # the guest goes on with the first of them
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    for round_number in range(SUSPENDS):
        before = volumes.wait_for_files(2)
        result = suspend(daemon, "db")
        after = volumes.progress()
        assert result["verdict"] == "consistent"
        scratch = tmp_path / f"suspend-{round_number}"
        scratch.mkdir()
        files = read_images(secondaries(daemon), scratch)
        assert check_cut(files, before.fsynced, after.issued) == []
        volumes.wait_for_files(2)  # the application goes on
        volumes.trim()
        if round_number == 1:
            # more than the journal holds: the resync goes by the change map
            volumes.write_bulk(JOURNAL_MIB + 8)
        assert_standing_still(daemon, scratch)
        resync(daemon, "db")
    assert "map" in resync_ways(daemon)
    written = volumes.stop_writer()
    assert min(written.fsynced.values()) > 4 * SUSPENDS
    assert volumes.trouble() == []
    volumes.unmount()
    volumes.disconnect()
    assert_legs_become_identical(daemon)
    assert (
        check_cut(read_images(secondaries(daemon), tmp_path), written.fsynced, written.issued) == []
    )


def test_linux_waits_during_a_quiesce_and_still_reads(
    connect: Connect, daemon: Daemon, tmp_path: Path
) -> None:
    volumes = connect(1)
    for attempt in range(QUIESCES_MAX):
        if quiesced(volumes, daemon, tmp_path / f"over-{attempt}"):
            break
        volumes.wait_for_files(2)
    else:
        raise AssertionError("no hold lasted as long as the guest needed")
    volumes.wait_for_files(2)
    written = volumes.stop_writer()
    assert volumes.trouble() == []
    volumes.unmount()
    volumes.disconnect()
    assert_legs_become_identical(daemon)
    assert (
        check_cut(read_images(secondaries(daemon), tmp_path), written.fsynced, written.issued) == []
    )


@pytest.mark.parametrize("restarts", [3, pytest.param(10, marks=pytest.mark.long)])
def test_linux_goes_on_over_restarts_in_place(
    connect: Connect, daemon: Daemon, tmp_path: Path, restarts: int
) -> None:
    """nbd-client of the distribution, which knows nothing of it, with two connections a volume."""
    volumes, pid = connect(2), daemon.pid
    for _ in range(restarts):
        volumes.wait_for_files(2)
        done = run_duplexctl(daemon.files, "restart", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["clients_kept"] == 2 * len(VOLUMES)
        assert daemon.pid == pid
    volumes.wait_for_files(2)
    written = volumes.stop_writer()
    assert volumes.trouble() == []
    volumes.unmount()
    volumes.check_file_systems()
    volumes.disconnect()
    assert_legs_become_identical(daemon)
    assert (
        check_cut(read_images(secondaries(daemon), tmp_path), written.fsynced, written.issued) == []
    )


def test_splitting_one_volume_after_the_other_is_found_inconsistent(
    connect: Connect, daemon: Daemon, tmp_path: Path
) -> None:
    """The negative control: the same checks on what people did before there were group cuts."""
    volumes = connect(1)
    findings = []
    for attempt in range(NAIVE_TRIES):
        suspend(daemon, VOLUMES[0])
        volumes.wait_for_files(1)
        suspend(daemon, VOLUMES[1])
        scratch = tmp_path / f"split-{attempt}"
        scratch.mkdir()
        findings = check_dependencies(read_images(secondaries(daemon), scratch))
        resync(daemon, "db")
        if findings:
            break
    volumes.stop_writer()
    assert volumes.trouble() == []
    assert findings, "no broken dependency was found: the checker proves nothing"


# Bare devices: what the driver sends for what programs do


@pytest.fixture
def device(
    machine: Machine, make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> Iterator[tuple[Daemon, GuestDevice]]:
    """A daemon with a volume over 4 GiB and a read-only one; a pattern, and nothing connected."""
    files = make_files(
        volumes={"data": BARE_BYTES}, journal_size="64MiB", tcp_port=free_port(), extra=FIXED
    )
    daemon, port = start_daemon(files), files.tcp_port
    assert port
    device = GuestDevice(machine, port)
    device.make_pattern()
    yield daemon, device
    device.disconnect()


def counted(daemon: Daemon, what: str, operation: str) -> int:
    """`requests` of that kind, or the `bytes` that they have covered."""
    line = f'duplexd_nbd_{what}_total{{op="{operation}",volume="data"}}'
    lines = daemon.request("GET", "/metrics")[1].splitlines()
    return sum(int(float(each.split()[-1])) for each in lines if each.startswith(line))


def test_requests_of_the_driver_do_what_they_say(device: tuple[Daemon, GuestDevice]) -> None:
    daemon, disk = device
    disk.connect("data", connections=4)
    (data, _fixed) = daemon.request("GET", "/v1/status")[1]["volumes"]
    assert data["connections"] == 4
    disk.write(5, count=3)
    assert disk.holds(5, 3)
    disk.take_long_requests()
    before = counted(daemon, "requests", "write")
    disk.write(1 << 16, count=1, sectors=PATTERN_BYTES // SECTOR_BYTES)
    assert counted(daemon, "requests", "write") == before + 1, "of 32 MiB"
    assert disk.holds(1 << 16, count=8)
    with daemon.files.primary("data").open("rb") as image:
        image.seek((1 << 16) * SECTOR_BYTES)
        written = image.read(PATTERN_BYTES)
    assert written == written[:REPEATED_BYTES] * (PATTERN_BYTES // REPEATED_BYTES)
    last = (4 * GIB - SECTOR_BYTES) // SECTOR_BYTES
    disk.write(last, count=2)
    disk.machine.run(f"blkdiscard -o 0 -l {4 * GIB - SECTOR_BYTES} {disk.path}")
    assert [counted(daemon, each, "trim") for each in ("requests", "bytes")] == [
        1,
        4 * GIB - SECTOR_BYTES,
    ]
    assert disk.holds(last, 2)
    assert not disk.holds(5, 3)
    assert daemon.request("POST", "/v1/verify", {"targets": ["data"]})[1]["equal"]


def test_a_read_only_export_is_a_read_only_device(device: tuple[Daemon, GuestDevice]) -> None:
    _daemon, disk = device
    disk.connect("fixed")
    assert disk.machine.run(f"blockdev --getro {disk.path}").strip() == "1"
    with pytest.raises(MachineError):
        disk.write(0, count=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_the_driver_was_answered_is_there_after_the_daemon_ends(
    device: tuple[Daemon, GuestDevice], number: signal.Signals
) -> None:
    """A write that has no answer fails, and the device has to be connected again."""
    daemon, disk = device
    disk.connect("data", connections=2)
    disk.start_load()
    disk.wait_for_load(3)
    daemon.signal(number)
    daemon.wait()
    disk.disconnect()  # until then Linux may wait for an answer
    pages = disk.acknowledged()
    assert pages >= 3
    daemon.start()
    disk.connect("data")
    assert disk.holds(0, pages * 8)


# The machine itself, which they all rely on


def test_a_command_in_the_guest_gives_its_output_and_status(machine: Machine) -> None:
    assert machine.outcome("echo out; echo err >&2; printf '#end 1 0'; exit 3") == (
        3,
        "out\nerr\n#end 1 0",
    )
    with pytest.raises(MachineError, match="exit status 1"):
        machine.run("false")


def test_a_command_beyond_its_time_fails_and_the_next_one_is_answered(machine: Machine) -> None:
    with pytest.raises(MachineError, match="time-out"):
        machine.run("sleep 1; echo late", timeout_s=0.2)
    assert machine.run("echo next") == "next"


def test_the_guest_sees_the_devices_of_the_kernel_driver(machine: Machine) -> None:
    assert machine.run("uname -s; ls /dev/nbd0") == "Linux\n/dev/nbd0"
    assert "cloud" in machine.run("uname -r")


def secondaries(daemon: Daemon) -> dict[str, Path]:
    return {name: daemon.files.secondary_of(name) for name in VOLUMES}


def suspend(daemon: Daemon, target: str) -> dict[str, object]:
    code, result = daemon.request(
        "POST", "/v1/suspend", {"targets": [target], "tag": "while Linux writes"}
    )
    assert code == 200, result
    assert isinstance(result, dict)
    return result


def resync(daemon: Daemon, target: str) -> None:
    done = run_duplexctl(daemon.files, "resync", target, "--wait")
    assert done.returncode == 0, done.stderr
    assert states(daemon) == ["DUPLEX"] * len(VOLUMES)


def status(daemon: Daemon) -> list[dict[str, Any]]:
    """The volumes, as the daemon reports them."""
    code, body = daemon.request("GET", "/v1/status")
    assert code == 200, body
    volumes = body["volumes"]
    assert [volume["name"] for volume in volumes] == VOLUMES
    return volumes  # type: ignore[no-any-return]


def states(daemon: Daemon) -> list[str]:
    return [volume["state"] for volume in status(daemon)]


def resync_ways(daemon: Daemon) -> list[str]:
    """How each resync went, by the daemon's log: "journal" or "map"."""
    entries = [json.loads(line) for line in daemon.log().splitlines()]
    return [entry["how"] for entry in entries if entry["event"] == "resync-started"]


def quiesced(volumes: GuestVolumes, daemon: Daemon, over: Path) -> bool:
    """Hold the group for `QUIESCE_SECONDS`, and see that the guest reads and does not write.

    False if the hold ended before that was seen.
    """
    results: list[int] = []
    holder = threading.Thread(target=hold, args=(daemon, over, results))
    holder.start()
    try:
        wait_until_held(daemon)
        start, deadline = volumes.progress(), time.monotonic() + QUIESCE_SECONDS
        while True:
            for device in range(len(VOLUMES)):
                volumes.read_directly(device)
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        end = volumes.progress()
        seen = all(volume["held"] for volume in status(daemon))
    finally:
        over.touch()
        holder.join()
    if not seen:
        return False
    assert sum(end.fsynced.values()) <= sum(start.fsynced.values()) + 1, (
        "writes went on during the hold"
    )
    return results == [0]


def hold(daemon: Daemon, over: Path, results: list[int]) -> None:
    """Hold the group until this file exists; adds the exit status to `results`."""
    arguments = [
        "quiesce",
        "db",
        "--hold",
        str(HOLD_SECONDS_MAX),
        "--",
        "sh",
        "-c",
        f"until [ -e {over} ]; do sleep 0.05; done",
    ]
    results.append(run_duplexctl(daemon.files, *arguments).returncode)


def wait_until_held(daemon: Daemon) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(volume["held"] for volume in status(daemon)):
        assert time.monotonic() < deadline, "the hold did not begin"
        time.sleep(0.02)


def assert_standing_still(daemon: Daemon, scratch: Path) -> None:
    for name, secondary in secondaries(daemon).items():
        assert filecmp.cmp(secondary, scratch / f"{name}.origin", shallow=False), (
            f"the suspended secondary of {name} was written to"
        )


def assert_legs_become_identical(daemon: Daemon) -> None:
    """At once in `sync` mode; in `async` mode the follower may still have something to do."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(volume["secondary"]["lag_bytes"] for volume in status(daemon)):
        assert time.monotonic() < deadline, "the follower does not reach the tail"
        time.sleep(0.05)
    assert states(daemon) == ["DUPLEX"] * len(VOLUMES)
    for name, secondary in secondaries(daemon).items():
        assert filecmp.cmp(daemon.files.primary(name), secondary, shallow=False), (
            f"the legs of {name} differ"
        )
