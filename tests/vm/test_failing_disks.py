"""Disks that fail under the images of a mounted ext4, while it is written to.

The daemon runs in the guest, as its users start it. Its images lie on tables of the device mapper,
which are exchanged for others that fail. One daemon for all tests; each of them begins with a new
file system on a pair that is DUPLEX, and leaves all disks good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vm.daemon_root import write_daemon_root
from tests.vm.guest_daemon import STATE_MOUNT, GuestDaemon
from tests.vm.guest_disks import GuestDisk, forget_pages
from tests.vm.machine import Machine, Root

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

ROOT = Root(write_daemon_root, memory_mib=1024, boot_timeout_s=300)
VOLUME_MIB = 32
BY_ERROR = ("SUSPENDED", "by secondary error")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestDaemon]:
    with Machine(tmp_path_factory.mktemp("disks"), ROOT) as machine:
        machine.run("mount -t tmpfs none /srv")
        disks = [
            GuestDisk(machine, name, number, size)
            for number, (name, size) in enumerate(
                [("first", VOLUME_MIB), ("second", VOLUME_MIB), ("state", 64)]
            )
        ]
        for disk in disks:
            disk.create()
        daemon = GuestDaemon(machine, *disks)
        machine.run(
            f"mkfs.ext4 -q -F {daemon.state.path} && mkdir -p {STATE_MOUNT} && "
            f"mount {daemon.state.path} {STATE_MOUNT}"
        )
        yield daemon


@pytest.fixture
def block_bytes() -> int:
    """What mkfs.ext4 takes for a volume of this size."""
    return 1024


@pytest.fixture
def options() -> dict[str, object]:
    """Of the configuration."""
    return {}


@pytest.fixture
def daemon(
    running: GuestDaemon, block_bytes: int, options: dict[str, object]
) -> Iterator[GuestDaemon]:
    """With a file system that is written to."""
    running.prepare(**options)
    running.connect()
    running.make_file_system(block_bytes)
    running.mount()
    running.start_load()
    yield running
    running.clean_up()


def test_a_primary_that_fails_costs_a_swap(daemon: GuestDaemon) -> None:
    failing = daemon.disk_of_primary()
    failing.fail()
    daemon.wait("a swap", lambda: daemon.disk_of_primary() != failing)
    assert daemon.state_and_reason() == BY_ERROR
    daemon.wait_for_files(10)
    failing.make_good()
    daemon.resync()
    assert_nothing_was_noticed_and_nothing_lost(daemon)


def test_a_secondary_that_fails_costs_the_mirror(daemon: GuestDaemon) -> None:
    good, failing = daemon.disk_of_primary(), daemon.disk_of_secondary()
    failing.fail()
    daemon.wait("a suspended pair", lambda: daemon.state_and_reason() == BY_ERROR)
    assert daemon.disk_of_primary() == good
    daemon.wait_for_files(10)
    failing.make_good()
    daemon.resync()
    assert_nothing_was_noticed_and_nothing_lost(daemon)


def test_a_primary_that_fails_every_few_seconds_costs_a_swap_and_resyncs(
    daemon: GuestDaemon,
) -> None:
    failing = daemon.disk_of_primary()
    before = len(daemon.events("suspended"))
    failing.flake(up_s=2, down_s=1)
    daemon.wait("a swap", lambda: daemon.disk_of_primary() != failing)
    while len(daemon.events("suspended")) < before + 3:
        daemon.begin_resync()
        daemon.wait("its end", lambda: daemon.state_and_reason()[0] == "SUSPENDED")
    failing.make_good()
    daemon.resync()
    assert daemon.disk_of_primary() != failing
    assert_nothing_was_noticed_and_nothing_lost(daemon)


def test_a_range_that_can_neither_be_read_nor_written_is_read_from_the_secondary(
    daemon: GuestDaemon,
) -> None:
    failing, repaired = daemon.disk_of_primary(), len(daemon.events("range-repaired"))
    place = daemon.write_file("quiet", size_mib=1)
    forget_pages(daemon.machine)
    failing.fail_range(place.start_sector, place.sectors)
    daemon.check_file("quiet")
    daemon.wait("a swap", lambda: daemon.disk_of_primary() != failing)
    assert daemon.state_and_reason() == BY_ERROR
    assert len(daemon.events("range-repaired")) == repaired, "the disk did not take it"
    daemon.check_file("quiet")
    failing.make_good()
    daemon.resync()
    assert_nothing_was_noticed_and_nothing_lost(daemon)


@pytest.mark.parametrize("block_bytes", [4096])
def test_what_linux_could_not_write_to_a_primary_is_not_read_back_as_it_was_before(
    daemon: GuestDaemon,
) -> None:
    """The disk fails for a moment, before any sync; nothing but a read can notice it."""
    failing = daemon.disk_of_primary()
    daemon.write_file("quiet", size_mib=1)
    assert daemon.stop_load() == ""
    daemon.lose_file("quiet", failing)
    daemon.check_file("quiet")
    daemon.wait("a swap", lambda: daemon.disk_of_primary() != failing)
    daemon.resync()
    daemon.start_load()
    assert_nothing_was_noticed_and_nothing_lost(daemon)


def test_a_journal_that_fails_costs_writes_until_a_restart_and_nothing_that_was_synced(
    daemon: GuestDaemon,
) -> None:
    daemon.state.fail()
    daemon.wait("a failed load", daemon.load_ended)
    assert "Input/output error" in daemon.load_error() or "Read-only" in daemon.load_error()
    assert not daemon.ready()
    assert daemon.events("controller-failed")
    assert daemon.state_and_reason()[0] == "DUPLEX"
    daemon.read_end()
    daemon.state.make_good()
    daemon.disconnect_dead()
    daemon.restart()
    daemon.connect()
    daemon.mount()
    daemon.check_load()
    daemon.unmount()
    daemon.wait("equal legs", lambda: daemon.state_and_reason()[0] == "DUPLEX")
    assert daemon.verify()["equal"]


@pytest.mark.parametrize("options", [{"on_primary_error": "refuse"}])
def test_without_swaps_the_same_failure_is_noticed(daemon: GuestDaemon) -> None:
    """The negative control: the same fault and the same checks."""
    daemon.disk_of_primary().fail()
    daemon.wait("a failed load", daemon.load_ended)
    assert daemon.load_error() != ""
    assert daemon.trouble() != []
    assert not daemon.volume()["served"]


def assert_nothing_was_noticed_and_nothing_lost(daemon: GuestDaemon) -> None:
    """The load and ext4 have met no error, and what was written is on both images."""
    daemon.wait_for_files(10)
    assert daemon.stop_load() == ""
    assert daemon.trouble() == []
    assert daemon.state_and_reason()[0] == "DUPLEX"
    daemon.unmount()
    assert daemon.verify()["equal"]
