"""Disks that fail under the images of a mounted ext4, while it is written to, or hang.

The daemon runs in the guest, as its users start it. Its images lie on tables of the device mapper,
which are exchanged for others that fail. One daemon for all tests; each of them begins with a new
file system on a pair that is DUPLEX, and leaves all disks good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vm.daemon_root import write_daemon_root
from tests.vm.guest_daemon import NBD_SOCKET, STATE_MOUNT, VOLUME, GuestDaemon
from tests.vm.guest_disks import GuestDisk, forget_pages
from tests.vm.guest_ext4 import GuestExt4
from tests.vm.machine import BOOT_TIMEOUT_S, Machine, Root

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1500)]

ROOT = Root(write_daemon_root, memory_mib=1024, boot_timeout_s=BOOT_TIMEOUT_S)
VOLUME_MIB = 32
BY_ERROR = ("SUSPENDED", "by secondary error")
DEVICE = "/dev/nbd0"
# What the driver logs when it gives up a connection that owes it an answer for 30 s. It gives up
# the write itself after another 30 s, so the disk goes on as soon as this was logged.
GIVEN_UP = "Connection timed out"


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
def daemon(running: GuestDaemon, options: dict[str, object]) -> GuestDaemon:
    running.prepare(**options)
    return running


@pytest.fixture
def ext4(daemon: GuestDaemon, block_bytes: int) -> Iterator[GuestExt4]:
    """A new file system, under load."""
    volume = GuestExt4(daemon)
    volume.connect()
    volume.make_file_system(block_bytes)
    volume.mount()
    volume.start_load()
    yield volume
    volume.clean_up()


def test_a_primary_that_fails_costs_a_swap(daemon: GuestDaemon, ext4: GuestExt4) -> None:
    failing = daemon.disk_of_primary()
    failing.fail()
    daemon.wait("a swap", lambda: daemon.disk_of_primary() != failing)
    assert daemon.state_and_reason() == BY_ERROR
    ext4.wait_for_files(5)
    failing.make_good()
    daemon.resync()
    assert_nothing_was_noticed_and_nothing_lost(daemon, ext4)
    (status,) = daemon.duplexctl("status")["volumes"]
    assert (status["state"], status["swapped"]) == ("DUPLEX", failing == daemon.primary)
    assert daemon.duplexctl("verify data")["equal"]


def test_a_secondary_that_fails_costs_the_mirror(daemon: GuestDaemon, ext4: GuestExt4) -> None:
    good, failing = daemon.disk_of_primary(), daemon.disk_of_secondary()
    failing.fail()
    daemon.wait("a suspended pair", lambda: daemon.state_and_reason() == BY_ERROR)
    assert daemon.disk_of_primary() == good
    ext4.wait_for_files(5)
    failing.make_good()
    daemon.resync()
    assert_nothing_was_noticed_and_nothing_lost(daemon, ext4)


@pytest.mark.long
def test_a_primary_that_fails_every_few_seconds_costs_a_swap_and_resyncs(
    daemon: GuestDaemon, ext4: GuestExt4
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
    assert_nothing_was_noticed_and_nothing_lost(daemon, ext4)


def test_a_range_that_can_neither_be_read_nor_written_is_read_from_the_secondary(
    daemon: GuestDaemon, ext4: GuestExt4
) -> None:
    failing, repaired = daemon.disk_of_primary(), len(daemon.events("range-repaired"))
    place = ext4.write_file("quiet", size_mib=1)
    forget_pages(daemon.machine)
    failing.fail_range(place.start_sector, place.sectors)
    ext4.check_file("quiet")
    daemon.wait("a swap", lambda: daemon.disk_of_primary() != failing)
    assert daemon.state_and_reason() == BY_ERROR
    assert len(daemon.events("range-repaired")) == repaired, "the disk did not take it"
    ext4.check_file("quiet")
    failing.make_good()
    daemon.resync()
    assert_nothing_was_noticed_and_nothing_lost(daemon, ext4)


@pytest.mark.parametrize("block_bytes", [4096])
def test_what_linux_could_not_write_to_a_primary_is_not_read_back_as_it_was_before(
    daemon: GuestDaemon, ext4: GuestExt4
) -> None:
    """The disk fails for a moment, before any sync; nothing but a read can notice it."""
    failing = daemon.disk_of_primary()
    ext4.write_file("quiet", size_mib=1)
    assert ext4.stop_load() == ""
    ext4.lose_file("quiet", failing)
    ext4.check_file("quiet")
    daemon.wait("a swap", lambda: daemon.disk_of_primary() != failing)
    daemon.resync()
    assert_all_is_mirrored(daemon, ext4)


def test_a_journal_that_fails_costs_writes_until_a_restart_and_nothing_that_was_synced(
    daemon: GuestDaemon, ext4: GuestExt4
) -> None:
    daemon.state.fail()
    daemon.wait("a failed load", ext4.load_ended)
    assert "Input/output error" in ext4.load_error() or "Read-only" in ext4.load_error()
    assert not daemon.ready()
    assert daemon.events("controller-failed")
    assert daemon.state_and_reason()[0] == "DUPLEX"
    ext4.read_end()
    daemon.state.make_good()
    ext4.disconnect_dead()
    daemon.restart()
    ext4.connect()
    ext4.mount()
    ext4.check_load()
    ext4.unmount()
    daemon.wait("equal legs", lambda: daemon.state_and_reason()[0] == "DUPLEX")
    assert daemon.legs_are_equal()


@pytest.mark.parametrize("options", [{"on_primary_error": "refuse"}])
def test_without_swaps_the_same_failure_is_noticed(daemon: GuestDaemon, ext4: GuestExt4) -> None:
    """The negative control: the same fault and the same checks."""
    daemon.disk_of_primary().fail()
    daemon.wait("a failed load", ext4.load_ended)
    assert ext4.load_error() != ""
    assert ext4.trouble() != []
    assert not daemon.volume()["served"]


@pytest.fixture
def two_connections(daemon: GuestDaemon) -> Iterator[GuestDaemon]:
    """To the volume: the driver sends a write again on the second one. The daemon has just started,
    so the first write to a region waits for the disk of the journal before it is applied.
    """
    daemon.restart()
    daemon.machine.run(f"nbd-client -unix {NBD_SOCKET} -N {VOLUME} -C 2 {DEVICE}")
    yield daemon
    GuestExt4(daemon).clean_up()


def written(text: str, processor: int) -> str:
    """A command that writes the first block, past the page cache, from one of the processors: each
    has a connection of its own.
    """
    return (
        f"yes {text} | dd bs=4096 count=1 iflag=fullblock 2>/dev/null | "
        f"taskset {1 << processor:x} dd of={DEVICE} bs=4096 count=1 oflag=direct 2>&1"
    )


def begin_of(path: str) -> str:
    """A command that prints how the first block begins, from the disk."""
    return f"dd if={path} bs=4096 count=1 iflag=direct 2>/dev/null | head -n 1"


def test_a_write_sent_twice_does_not_come_back_over_a_newer_one(
    two_connections: GuestDaemon,
) -> None:
    """Linux sends it again, because its first connection is silent for 30 s. The first copy must
    not come back over what is written after the second.
    """
    daemon, machine = two_connections, two_connections.machine
    machine.run("dmesg -c >/dev/null; rm -f /run/old.*")
    daemon.state.suspend()
    try:
        machine.run(f"({written('old', 0)}; echo $? >/run/old.status) >/run/old.output 2>&1 &")
        machine.run(f"until dmesg | grep -q '{GIVEN_UP}'; do sleep 0.5; done")
    finally:
        daemon.state.resume()
    machine.run("until [ -s /run/old.status ]; do sleep 0.1; done")
    status, said = machine.run("cat /run/old.status"), machine.run("cat /run/old.output; dmesg")
    assert status.strip() == "0", said
    machine.run(written("new", 1))
    assert machine.run(begin_of(DEVICE)).strip() == "new"
    assert daemon.legs_are_equal()
    assert machine.run(begin_of(daemon.disk_of_primary().path)).strip() == "new"


def assert_nothing_was_noticed_and_nothing_lost(daemon: GuestDaemon, ext4: GuestExt4) -> None:
    """The load and ext4 have met no error, and what was written is on both images."""
    ext4.wait_for_files(5)
    assert ext4.stop_load() == ""
    assert_all_is_mirrored(daemon, ext4)


def assert_all_is_mirrored(daemon: GuestDaemon, ext4: GuestExt4) -> None:
    assert ext4.trouble() == []
    assert daemon.state_and_reason()[0] == "DUPLEX"
    ext4.unmount()
    assert daemon.legs_are_equal()
