"""The daemon is upgraded to another wheel and back while Linux has a file system on its volume: by
the distribution's nbd-client, which knows nothing of it, and by `duplexd attach`.

The daemon is on the host, installed as users install it; the mounted ext4, and a program that
fsyncs on it, are in the guest.
"""

from __future__ import annotations

import filecmp
from typing import TYPE_CHECKING

import pytest

from duplexd import __version__
from tests.support.daemon import free_port
from tests.support.installation import OTHER_VERSION, Upgrades
from tests.vm.daemon_root import write_daemon_root
from tests.vm.guest_attach import GuestAttach
from tests.vm.machine import BOOT_TIMEOUT_S, HOST_ADDRESS, Machine, Root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import DaemonFiles

pytestmark = [pytest.mark.vm, pytest.mark.long, pytest.mark.timeout(1500)]

ROOT = Root(write_daemon_root, memory_mib=768, boot_timeout_s=BOOT_TIMEOUT_S)
CONNECTIONS = 2


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Machine(tmp_path_factory.mktemp("upgraded"), ROOT) as machine:
        yield machine


@pytest.fixture
def upgrades(make_files: Callable[..., DaemonFiles], tmp_path: Path) -> Iterator[Upgrades]:
    upgrades = Upgrades(make_files(volumes={"data": "32MiB"}, tcp_port=free_port()), tmp_path)
    upgrades.daemon.start()
    yield upgrades
    upgrades.daemon.kill()


@pytest.mark.parametrize("client", ["nbd-client", "attach"])
def test_a_mounted_file_system_goes_on_over_an_upgrade_and_back(
    guest: Machine, upgrades: Upgrades, client: str
) -> None:
    daemon = upgrades.daemon
    port = daemon.files.tcp_port
    assert port
    device = GuestAttach(guest, port)
    try:
        if client == "attach":
            device.start(f"--connections {CONNECTIONS}")
        else:
            guest.run(f"nbd-client -N data -C {CONNECTIONS} {HOST_ADDRESS} {port} {device.path}")
        device.make_file_system()
        device.load.start()
        for version in (OTHER_VERSION, __version__):
            done = upgrades.go_to(version)
            assert (done["clients_kept"], done["clients_lost"]) == (CONNECTIONS, 0)
            device.load.wait_for_files(3)
        device.load.stop()
        assert device.load.trouble() == []
        assert "nbd" not in guest.run("dmesg")
        device.unmount()
        if client == "attach":
            assert device.events("connection-lost") == []
            assert device.signal("TERM") == 0
    finally:
        device.clean_up()
    assert daemon.request("POST", "/v1/verify", {"targets": ["data"]})[1]["equal"]
    assert daemon.stop() == 0
    files = daemon.files
    assert filecmp.cmp(files.primary("data"), files.secondary_of("data"), shallow=False)
