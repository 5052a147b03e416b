"""A file system on /dev/nbd0 in a machine with systemd, udev and the kernel's driver. The units,
the line of /etc/fstab and the commands are those of docs/attach.md.

One guest for all tests. Each finds everything up, as after a boot, and leaves it so.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from duplexd import __version__
from tests.support.daemon import ROOT as SOURCES
from tests.vm.guest_load import OF_CONNECTIONS, GuestLoad
from tests.vm.machine import BOOT_TIMEOUT_S, Machine, Root
from tests.vm.python_tree import SITE
from tests.vm.services import Services, commands_of
from tests.vm.systemd_root import write_device_root

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.vm, pytest.mark.long, pytest.mark.timeout(1500)]

ROOT = Root(write_device_root, memory_mib=1024, boot_timeout_s=BOOT_TIMEOUT_S)
DAEMON, ATTACH, MOUNT = "duplexd@db.service", "duplexd-attach@nbd0.service", "srv-db.mount"
UNITS = (DAEMON, ATTACH, MOUNT)  # in the order in which they come up
SINCE = "ActiveEnterTimestampMonotonic"
CONTROL = "/run/duplexd/db/control.sock"
OTHER_VERSION = "9.9.9"
TIMEOUT_S = 120  # of a request of the device: guests are slow


def fstab() -> str:
    """The line that docs/attach.md gives."""
    (line,) = {
        line.strip()
        for line in (SOURCES / "docs" / "attach.md").read_text().splitlines()
        if line.startswith("    /dev/nbd0 ")
    }
    return line


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Installed and attached by the commands of the pages, with a file system that is mounted."""
    with Machine(tmp_path_factory.mktemp("devices"), ROOT) as machine:
        services = Services(machine)
        services.install()
        services.run(
            "install -m 0644 systemd/duplexd-attach@.service systemd/duplexd-volumes.target "
            "/etc/systemd/system/ && systemctl daemon-reload"
        )
        for command in commands_of("attach.md", "Under systemd"):
            if command.startswith("systemctl"):
                services.run(f"echo OPTIONS=--timeout {TIMEOUT_S} >>/etc/duplexd/attach/nbd0.conf")
            if not command.startswith("/dev/nbd0"):
                services.run(command)
        services.run("mkfs.ext4 -q /dev/nbd0 && mkdir -p /srv/db")
        services.write("/etc/fstab", f"{fstab()}\n")
        # As Debian has it: what brings devices of a network up at a boot
        services.run("systemctl enable remote-fs.target; systemctl daemon-reload")
        services.start(MOUNT)
        yield services


@pytest.fixture
def load(guest: Services) -> Iterator[GuestLoad]:
    load = GuestLoad(guest.machine, "/srv/db")
    load.start()
    yield load
    guest.machine.run("touch /run/load.stop")


def take_down(services: Services) -> None:
    """As a shutdown does, up to where it would remove what this test itself needs."""
    services.run("systemctl isolate nothing-up.target")
    services.wait("everything down", lambda: states(services) == ["inactive"] * len(UNITS))


def boot(services: Services) -> None:
    services.run("systemctl start --no-block multi-user.target")
    services.wait("everything up", lambda: states(services) == ["active"] * len(UNITS))


def states(services: Services) -> list[str]:
    return [services.properties(unit, "ActiveState")["ActiveState"] for unit in UNITS]


def since(services: Services) -> list[int]:
    """When each unit came up."""
    return [int(services.properties(unit, SINCE)[SINCE]) for unit in UNITS]


def check_file_system(services: Services) -> None:
    """Raises MachineError if it is not clean. The images of the pair are equal."""
    services.run(f"systemctl stop {MOUNT} && e2fsck -fn /dev/nbd0 && systemctl start {MOUNT}")
    services.wait("a pair", lambda: services.volumes("db")["tables"]["state"] == "DUPLEX")
    assert services.post("db", "/v1/verify", {"targets": ["tables"]})["equal"]


def test_a_shutdown_ends_and_a_boot_starts_them_in_order(guest: Services) -> None:
    said = [len(guest.journal(ATTACH, event)) for event in ("detached", "left-attached")]
    take_down(guest)
    left = "InactiveEnterTimestampMonotonic"
    down = [int(guest.properties(unit, left)[left]) for unit in reversed(UNITS)]
    assert down == sorted(down)
    for unit in UNITS:
        assert guest.properties(unit, "Result") == {"Result": "success"}
    assert len(guest.journal(ATTACH, "detached")) == said[0] + 1
    assert len(guest.journal(ATTACH, "left-attached")) == said[1]
    assert guest.machine.outcome("test -e /sys/block/nbd0/pid").status
    boot(guest)
    up = since(guest)
    assert up == sorted(up)
    check_file_system(guest)


def test_a_mount_survives_a_kill_of_the_daemon(guest: Services, load: GuestLoad) -> None:
    before, killed = since(guest), guest.properties(DAEMON, "NRestarts")["NRestarts"]
    watcher = guest.properties(ATTACH, "MainPID", "NRestarts")
    reconnected = len(guest.journal(ATTACH, "reconnected"))
    for turn in range(2):
        guest.run(f"systemctl kill -s KILL {DAEMON}")
        guest.wait_active(DAEMON, int(killed) + turn + 1)
        load.wait_for_files(2)
    assert since(guest)[1:] == before[1:]
    assert guest.properties(ATTACH, "MainPID", "NRestarts") == watcher
    guest.wait_properties(ATTACH, {"StatusText": "/dev/nbd0 is attached"})
    assert len(guest.journal(ATTACH, "reconnected")) >= reconnected + 2
    load.stop()
    assert load.trouble() == []
    check_file_system(guest)


def test_systemd_sees_one_process_over_a_reload_and_restarts_in_place(
    guest: Services, load: GuestLoad
) -> None:
    """Into another version and back, too."""
    same = ("MainPID", "NRestarts", SINCE, "ActiveState", "SubState", "StatusText", "Result")
    before = guest.properties(DAEMON, *same)
    assert before["StatusText"] == "serving 4 volumes"
    lost = len(guest.journal(ATTACH, "connection-lost"))
    guest.run(f"systemctl reload {DAEMON}")
    assert_goes_on(guest, load, before)
    for version in (OTHER_VERSION, __version__):
        install_version(guest, version)
        answer = json.loads(guest.run(f"duplexctl --socket {CONTROL} --json restart"))
        assert answer["version"] == version
        assert (answer["clients_kept"], answer["clients_lost"]) == (2, 0)
        assert_goes_on(guest, load, before)
    assert len(guest.journal(ATTACH, "connection-lost")) == lost
    load.stop()
    assert not [line for line in guest.run("dmesg").splitlines() if has_lost(line)]
    check_file_system(guest)


def assert_goes_on(services: Services, load: GuestLoad, before: dict[str, str]) -> None:
    """What systemd says is unchanged, and its watchdog is fed."""
    services.wait_properties(DAEMON, before)
    wait_watchdog(services)
    load.wait_for_files(2)
    shown = services.run(f"systemctl status --no-pager {DAEMON}")
    assert "Active: active (running)" in shown
    assert 'Status: "serving 4 volumes"' in shown


def install_version(services: Services, version: str) -> None:
    """As an upgrade leaves it: the same program, with another number."""
    package = f"/{SITE}/duplexd"
    services.run(
        f"sed -i 's/^__version__ = .*/__version__ = \"{version}\"/' {package}/__init__.py && "
        f"rm -f {package}/__pycache__/__init__.*.pyc"
    )
    assert services.run("duplexd --version").strip().endswith(version)


def wait_watchdog(services: Services) -> None:
    name = "WatchdogTimestampMonotonic"
    fed = services.properties(DAEMON, name)
    services.wait("a watchdog that is fed", lambda: services.properties(DAEMON, name) != fed)


def has_lost(line: str) -> bool:
    """Whether the driver says that a connection ended."""
    return any(each in line for each in OF_CONNECTIONS)
