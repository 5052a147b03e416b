"""Drills as systemd runs them: unit and timer as they are shipped, started by the timer, whose time
is set to come. One that failed is failed in systemd, and `duplexctl` says so.

One guest for all tests, which may come in any order: each leaves the pairs DUPLEX.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.vm.machine import BOOT_TIMEOUT_S, Machine, Root
from tests.vm.services import Services, uri
from tests.vm.systemd_root import write_systemd_root

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.vm, pytest.mark.long, pytest.mark.timeout(1500)]

ROOT = Root(write_systemd_root, memory_mib=1024, boot_timeout_s=BOOT_TIMEOUT_S)
CONTROL = "/run/duplexd/db/control.sock"
DRILL = "duplexd-drill@database"
DELAY_S = 600  # RandomizedDelaySec of the timers
HEALTH = """
[health]
drill_age_max = "8d"
"""
# Whether the clone of the volume `tables` has what was written
CHECK = """#!/bin/sh
set -eu
uri=$(echo "$DUPLEXD_URIS" | sed -n 's/^tables //p')
nbdcopy "$uri" /tmp/of-clone
cmp -n 4194304 /tmp/of-clone /srv/expected
"""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with Machine(tmp_path_factory.mktemp("timers"), ROOT) as machine:
        services = Services(machine)
        services.install()
        services.run(
            "install -m 0644 systemd/duplexd-drill@.service systemd/duplexd-drill@.timer "
            "/etc/systemd/system/ && systemctl daemon-reload && install -d /etc/duplexd/drill"
        )
        services.write("/tmp/health.toml", HEALTH)
        services.run("cat /tmp/health.toml >>/etc/duplexd/db.toml && systemctl reload duplexd@db")
        services.write("/etc/duplexd/drill/database.conf", f"DUPLEXD_SOCKET={CONTROL}\n")
        services.write("/etc/duplexd/drill/database", CHECK)
        services.run(
            "chmod 0755 /etc/duplexd/drill/database && dd if=/dev/urandom of=/srv/expected bs=1M "
            f"count=4 && nbdcopy --flush /srv/expected {uri('db', 'tables')}"
        )
        yield services


def come(services: Services) -> None:
    """The time at which the timer is due; returns when a drill was started, and has ended."""
    before = services.properties(f"{DRILL}.service", "InvocationID")
    # What it remembers of an earlier test it would make up for
    services.run(f"rm -f /var/lib/systemd/timers/stamp-{DRILL}.timer")
    services.run(f"systemctl enable --now {DRILL}.timer")

    def has_begun() -> bool:
        if services.properties(f"{DRILL}.service", "InvocationID") != before:
            return True
        # A clock that was set makes systemd choose the random delay anew, and when it is due
        next_elapse = "NextElapseUSecRealtime"
        due = services.properties(f"{DRILL}.timer", next_elapse)[next_elapse]
        _weekday, day, time, _zone = due.split()
        services.run(f"date -s @$(($(date -d '{day} {time}' +%s) + {DELAY_S}))")
        return False

    def has_ended() -> bool:
        state = services.properties(f"{DRILL}.service", "ActiveState")["ActiveState"]
        return state in {"inactive", "failed"}

    services.wait(f"a start of {DRILL}", has_begun)
    services.wait(f"the end of {DRILL}", has_ended)
    services.run(f"systemctl disable --now {DRILL}.timer")


def result(services: Services) -> tuple[str, str, str]:
    names = ("ActiveState", "Result", "ExecMainStatus")
    shown = services.properties(f"{DRILL}.service", *names)
    return shown["ActiveState"], shown["Result"], shown["ExecMainStatus"]


def shown(services: Services) -> str:
    """What an administrator sees; the exit code of a unit that does not run is not 0."""
    return services.machine.outcome(f"systemctl status --no-pager -n 20 {DRILL}.service").output


def ctl(services: Services, command: str) -> Any:
    """What `duplexctl` answers, whatever its exit code."""
    done = services.machine.outcome(f"duplexctl --socket {CONTROL} --json {command} 2>/dev/null")
    return json.loads(done.output)


def unwell(services: Services) -> set[str]:
    """The kinds of findings about drills."""
    findings = ctl(services, "health")["findings"]
    return {each["kind"] for each in findings if each["kind"].startswith("drill")}


def assert_together(services: Services) -> None:
    """Also after a unit that failed, its pairs are DUPLEX again."""
    services.run(f"duplexctl --socket {CONTROL} resync database --wait")
    rows = services.volumes("db")
    assert {rows[name]["state"] for name in ("tables", "log", "blobs")} == {"DUPLEX"}
    assert ctl(services, "clones")["clones"] == []


def test_a_week_drills(guest: Services) -> None:
    come(guest)
    assert result(guest) == ("inactive", "success", "0")
    assert last_drill(guest)["exit_code"] == 0
    assert unwell(guest) == set()
    assert_together(guest)


def test_a_drill_that_finds_something_is_failed_and_said(guest: Services) -> None:
    guest.run("cp /srv/expected /srv/good && printf x | dd of=/srv/expected conv=notrunc")
    try:
        come(guest)
    finally:
        guest.run("mv /srv/good /srv/expected")
    assert result(guest) == ("failed", "exit-code", "1")
    assert "differ" in shown(guest)
    assert last_drill(guest)["exit_code"] == 1
    assert "drill-failed" in unwell(guest)
    assert_together(guest)
    guest.start(f"{DRILL}.service")
    assert unwell(guest) == set()
    assert_together(guest)


def last_drill(services: Services) -> dict[str, Any]:
    found = services.volumes("db")["tables"]["last_drill"]
    assert isinstance(found, dict)
    return found
