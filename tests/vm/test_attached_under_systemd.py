"""The unit of `duplexd attach` with a mount from /etc/fstab, as our page says, under a systemd.

This guest has no udev: so the mount names the device by a link that systemd does not wait for, and
the device gets the group that udev would give it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vm.machine import BOOT_TIMEOUT_S, Machine, Root
from tests.vm.services import Services, commands_of
from tests.vm.systemd_root import SOURCE, write_systemd_root

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.vm, pytest.mark.long, pytest.mark.timeout(1500)]

ROOT = Root(write_systemd_root, memory_mib=1024, boot_timeout_s=BOOT_TIMEOUT_S)
DAEMON, ATTACH, MOUNT = "duplexd@db", "duplexd-attach@nbd0", "srv-db.mount"
ACTIVE = {"ActiveState": "active"}
LINK = "/run/tables"
WRITE = (
    "dd if=/dev/urandom of=/srv/db/{0} bs=64k count=4 conv=fsync 2>&1 && cat /srv/db/{0} >/dev/null"
)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with Machine(tmp_path_factory.mktemp("systemd"), ROOT) as machine:
        services = Services(machine)
        services.run(
            f'sed -i -E \'s/"[0-9]+[GT]iB"/"16MiB"/\' /{SOURCE}/configs/example-database.toml'
        )
        for command in commands_of("operations.md", "Under systemd"):
            services.run(command)
        services.run(
            "install -m 0644 systemd/duplexd-attach@.service systemd/duplexd-volumes.target "
            "/etc/systemd/system/ && insmod /modules/nbd.ko && chgrp disk /dev/nbd0 && "
            f"chmod 660 /dev/nbd0 && ln -s /dev/nbd0 {LINK} && systemctl daemon-reload"
        )
        yield services


def test_a_mount_survives_kills_of_the_daemon_and_of_what_attaches_it(services: Services) -> None:
    for command in commands_of("attach.md", "Under systemd"):
        if command.startswith("/dev/nbd0 "):
            services.run(f"echo '{command.replace('/dev/nbd0', LINK, 1)}' >>/etc/fstab")
        else:
            services.run(command)
    services.run("mkfs.ext4 -q -F /dev/nbd0 && mkdir -p /srv/db && systemctl daemon-reload")
    services.start(MOUNT)
    services.run(WRITE.format("first"))
    services.run(f"systemctl kill -s KILL {DAEMON}")
    services.run(WRITE.format("second"))
    services.wait_active(DAEMON, 1)
    assert services.properties(ATTACH, "NRestarts") == {"NRestarts": "0"}
    assert services.properties(ATTACH, "StatusText") == {"StatusText": "/dev/nbd0 is attached"}
    services.run(f"systemctl kill -s KILL {ATTACH}")
    services.wait_active(ATTACH, 1)
    services.run(f"systemctl restart {ATTACH}")
    assert services.journal(ATTACH, "left-attached")[0]["user"] == "mounted on /srv/db"
    assert len(services.journal(ATTACH, "taken-over")) == 2
    services.run(f"systemctl restart {DAEMON}")
    services.run(WRITE.format("third"))
    assert services.properties(MOUNT, "ActiveState") == ACTIVE
    services.run(f"systemctl stop {MOUNT} {ATTACH}")
    services.run("! test -e /sys/block/nbd0/pid")
    assert services.properties(ATTACH, "ActiveState", "Result") == {
        "ActiveState": "inactive",
        "Result": "success",
    }
