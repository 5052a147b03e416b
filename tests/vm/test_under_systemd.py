"""The units as they are shipped, installed as our pages say, started and stopped by a real systemd.

One guest for all tests, which may come in any order: each finds duplexd@db running (`services`) and
leaves it so or stopped. Its configuration is configs/example-database.toml with smaller volumes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from duplexd.errors import ConfigurationError
from tests.vm.machine import BOOT_TIMEOUT_S, Machine, Root
from tests.vm.services import Services, commands_of, curl_target, uri
from tests.vm.systemd_root import write_systemd_root

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1500)]

ROOT = Root(write_systemd_root, memory_mib=1024, boot_timeout_s=BOOT_TIMEOUT_S)
UNIT = "duplexd@db"
UNKNOWN = "duplexd@unknown"  # which has no configuration
WATCHDOG_S = 10  # in place of the unit's own half minute
GROUP = ["tables", "log", "blobs"]
CONTROL = "/run/duplexd/db/control.sock"
CURL_COULD_NOT_CONNECT = 7
SERVING_FIVE = {"ActiveState": "active", "StatusText": "serving 5 volumes"}

CANARY = """
[volumes.canary]
size = "1MiB"
primary = "/srv/fast/canary.img"
secondary = "/srv/mirror/canary.img"
"""

BETA = """
[controller]
name = "beta"
state_dir = "/var/lib/duplexd/beta"
journal_size = "16MiB"
[nbd]
listen = ["unix:/run/duplexd/beta/nbd.sock"]
[control]
socket = "/run/duplexd/beta/control.sock"
[volumes.canary]
size = "1MiB"
primary = "/srv/fast/beta-canary.img"
secondary = "/srv/mirror/beta-canary.img"
"""

GROUPS = """
[controllers.db]
socket = "/run/duplexd/db/control.sock"
[controllers.beta]
socket = "/run/duplexd/beta/control.sock"
[groups.db]
members = ["db:database"]
canary = ["db:canary", "beta:canary"]
hold_max = 10.0
"""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Installed and started by the commands of docs/operations.md."""
    with Machine(tmp_path_factory.mktemp("systemd"), ROOT) as machine:
        services = Services(machine)
        services.install()
        # as soon as systemctl had returned
        assert services.get("db", "/readyz") == {"status": "ready", "degraded": []}
        services.run(f"systemctl start --no-block {UNKNOWN}")
        services.run(
            "useradd -G duplexd operator1 && useradd stranger && dd if=/dev/urandom "
            "of=/tmp/written bs=1M count=4"
        )
        yield services


@pytest.fixture
def services(guest: Services) -> Services:
    guest.start(UNIT)
    return guest


def test_systemd_gets_its_status_and_files_are_where_the_documents_say(
    services: Services,
) -> None:
    assert services.properties(UNIT, "ActiveState", "SubState", "StatusText") == {
        "ActiveState": "active",
        "SubState": "running",
        "StatusText": f"serving {len(services.volumes('db'))} volumes",
    }
    places = {
        "/run/duplexd/db": "duplexd:duplexd 755 directory",
        "/run/duplexd/db/nbd.sock": "duplexd:duplexd 660 socket",
        CONTROL: "duplexd:duplexd 660 socket",
        "/var/lib/duplexd/db": "duplexd:duplexd 700 directory",
        "/var/lib/duplexd/db/journal": "duplexd:duplexd 700 directory",
        "/srv/mirror/tables.img": "duplexd:duplexd 600 regular file",
    }
    found = services.run(f"stat -c '%U:%G %a %F' {' '.join(places)}").splitlines()
    assert dict(zip(places, found, strict=True)) == places


def test_members_of_the_group_may_send_commands_and_are_logged_and_others_are_refused(
    services: Services,
) -> None:
    body = '{"targets":["log"],"hold_s":1}'
    hold = f"curl -sS --fail-with-body {curl_target('db', '/v1/quiesce')} --json '{body}'"
    as_user = "setpriv --reuid {0} --regid {0} --init-groups"
    services.run(f"{as_user.format('operator1')} {hold}")
    command = services.journal(UNIT, "command")[-1]
    assert (command["command"], command["uid"]) == ("quiesce", int(services.run("id -u operator1")))
    refused = services.machine.outcome(f"{as_user.format('stranger')} {hold}")
    assert refused.status == CURL_COULD_NOT_CONNECT, refused


def test_a_write_a_suspend_and_a_resync_work_inside_the_sandbox(services: Services) -> None:
    services.run(f"nbdcopy --flush /tmp/written {uri('db', 'tables')}")
    result = json.loads(
        services.run(f"duplexctl --socket {CONTROL} --json suspend database --tag nightly")
    )
    assert result["verdict"] == "consistent"
    services.run("cmp -n 4194304 /tmp/written /srv/mirror/tables.img")
    assert {services.volumes("db")[name]["state"] for name in GROUP} == {"SUSPENDED"}
    services.run(f"duplexctl --socket {CONTROL} resync database --wait")
    assert {services.volumes("db")[name]["state"] for name in GROUP} == {"DUPLEX"}


def test_reload_applies_a_new_configuration_and_refuses_a_wrong_one(services: Services) -> None:
    process = services.properties(UNIT, "MainPID")
    add_canary_volume(services)
    services.run("cp /etc/duplexd/db.toml /tmp/good.toml && echo nonsense >>/etc/duplexd/db.toml")
    refused = len(services.journal(UNIT, "reload refused, nothing changed"))
    services.run(f"! systemctl reload {UNIT}")
    services.wait(
        "the refusal",
        lambda: len(services.journal(UNIT, "reload refused, nothing changed")) > refused,
    )
    assert "reload was refused" in services.properties(UNIT, "StatusText")["StatusText"]
    services.run(f"mv /tmp/good.toml /etc/duplexd/db.toml && systemctl reload {UNIT}")
    services.wait_properties(UNIT, SERVING_FIVE)
    assert "canary" in services.volumes("db")
    assert services.properties(UNIT, "MainPID") == process


def test_after_a_kill_or_a_hang_it_is_restarted_and_has_lost_nothing(services: Services) -> None:
    services.run(f"mkdir -p /run/systemd/system/{UNIT}.service.d && systemctl reset-failed {UNIT}")
    services.write(
        f"/run/systemd/system/{UNIT}.service.d/watchdog.conf",
        f"[Service]\nWatchdogSec={WATCHDOG_S}s\n",
    )
    services.run("systemctl daemon-reload")
    before = int(services.properties(UNIT, "NRestarts")["NRestarts"])
    services.run(f"nbdcopy /tmp/written {uri('db', 'log')}")  # acknowledged, not flushed
    services.run(f"systemctl kill -s KILL {UNIT}")
    services.wait_active(UNIT, before + 1)
    assert_log_is_what_was_written(services)

    fed = services.properties(UNIT, "WatchdogTimestampMonotonic")
    services.wait(
        "a watchdog that is fed",
        lambda: services.properties(UNIT, "WatchdogTimestampMonotonic") != fed,
    )
    process = services.properties(UNIT, "MainPID", "NRestarts")
    assert process["NRestarts"] == str(before + 1)
    services.run(f"kill -STOP {process['MainPID']}")
    services.wait_active(UNIT, before + 2)
    assert "Watchdog timeout" in services.run(f"journalctl -q -u {UNIT}")
    assert_log_is_what_was_written(services)


@pytest.mark.long
def test_the_canary_waits_for_controllers_and_grades_cuts_of_both(
    services: Services,
) -> None:
    canary = "duplexd-canary@db"
    add_canary_volume(services)
    services.write("/etc/duplexd/beta.toml", BETA)
    services.write("/etc/duplexd/groups.toml", GROUPS)
    for command in commands_of("canary.md", "Reserving volumes"):
        if "systemd" in command or "systemctl" in command:
            services.run(command)
    services.wait(
        "a canary that tries again",
        lambda: services.properties(canary, "NRestarts") != {"NRestarts": "0"},
    )
    services.start("duplexd@beta")
    services.wait("a canary that writes", lambda: bool(services.journal(canary, "running")))
    for controller in ("db", "beta"):
        wait_for_records(services, controller)
    result = json.loads(services.run("duplexctl --json suspend db --tag graded"))
    assert (result["verdict"], set(result["controllers"])) == ("consistent", {"db", "beta"})
    services.wait(
        "a grade",
        lambda: bool(services.journal(canary, "graded") or services.journal(canary, "not_graded")),
    )
    assert services.journal(canary, "not_graded") == []
    assert [
        (grade["cut"], grade["consistent"]) for grade in services.journal(canary, "graded")
    ] == [(result["cut"], True)]
    services.post("db", "/v1/resync", {"targets": ["database", "canary"]})
    services.wait(
        "pairs as before",
        lambda: {services.volumes("db")[name]["state"] for name in GROUP} == {"DUPLEX"},
    )
    for unit in (canary, "duplexd@beta"):
        services.run(f"systemctl stop {unit}")
        assert services.properties(unit, "ActiveState", "Result", "ExecMainStatus") == {
            "ActiveState": "inactive",
            "Result": "success",
            "ExecMainStatus": "0",
        }


def test_a_failure_that_needs_an_operator_is_not_retried(guest: Services) -> None:
    guest.wait_properties(
        UNKNOWN,
        {
            "ActiveState": "failed",
            "ExecMainStatus": str(ConfigurationError.exit_code),
            "NRestarts": "0",
        },
    )


def test_stop_is_clean(services: Services) -> None:
    services.run(f"systemctl stop {UNIT}")
    assert services.properties(UNIT, "ActiveState", "Result", "ExecMainCode", "ExecMainStatus") == {
        "ActiveState": "inactive",
        "Result": "success",
        "ExecMainCode": "1",  # exited, by itself
        "ExecMainStatus": "0",
    }
    assert services.journal(UNIT, "stopped")
    services.run(
        f"test ! -e /run/duplexd/db/nbd.sock && test ! -e {CONTROL}"
        " && test -s /var/lib/duplexd/db/checkpoint"
    )


@pytest.mark.long
def test_its_socket_units_start_it_for_the_first_client(services: Services) -> None:
    sockets = f"{UNIT}.socket duplexd-control@db.socket"
    for command in commands_of("operations.md", "Socket activation"):
        if not command.startswith("nbdinfo"):
            services.run(command)
    try:
        assert services.properties(UNIT, "ActiveState") == {"ActiveState": "inactive"}
        services.run(f"nbdcopy {uri('db', 'log')} null:")
        services.wait_properties(UNIT, {"ActiveState": "active"})
        assert services.get("db", "/readyz") == {"status": "ready", "degraded": []}
        services.run(f"systemctl stop {UNIT}")
        services.run(f"curl -sS {curl_target('db', '/healthz')}")
        services.wait_properties(UNIT, {"ActiveState": "active"})
    finally:
        services.run(f"systemctl stop {sockets} {UNIT}; systemctl disable {sockets}")


def add_canary_volume(services: Services) -> None:
    """By a reload, unless it is there."""
    if "canary" in services.volumes("db"):
        return
    services.write("/tmp/canary.toml", CANARY)
    services.run(f"cat /tmp/canary.toml >>/etc/duplexd/db.toml && systemctl reload {UNIT}")
    services.wait_properties(UNIT, SERVING_FIVE)
    assert "canary" in services.volumes("db")


def wait_for_records(services: Services, controller: str) -> None:
    """Until the canary has written some there."""
    start = services.volumes(controller)["canary"]["sequence"]
    services.wait(
        f"records on {controller}",
        lambda: services.volumes(controller)["canary"]["sequence"] > start + 50,
    )


def assert_log_is_what_was_written(services: Services) -> None:
    services.run(
        f"nbdcopy {uri('db', 'log')} /tmp/read && cmp -n 4194304 /tmp/written /tmp/read && rm "
        "/tmp/read"
    )
    services.run("cmp /srv/fast/log.img /srv/mirror/log.img")
