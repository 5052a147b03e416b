"""Drills: an application's own check on clones of a cut, and what is left of it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cluster import Cluster
from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment
from tests.system.test_duplexctl_groups import Ctl
from tests.system.test_points import BEFORE, MAIN, SIZE, Operator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

# Finds what was there at the cut, writes, and reads it again: of the first volume
RECOVERY = """
set -eu
uri=$(echo "$DUPLEXD_URIS" | sed -n '1s/^[^ ]* //p')
qemu-io -f raw -c "read -P $1 0 64k" -c "write -P 9 0 64k" -c flush -c "read -P 9 0 64k" "$uri" >&2
echo "$DUPLEXD_TAG" "$DUPLEXD_CUT" >&2
exit "$2"
"""


@pytest.fixture
def ctl(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Operator:
    return Operator(start_daemon(make_files(volumes={"data": SIZE}, groups={"db": ["data"]})))


def script(text: str, *arguments: str) -> list[str]:
    return ["--", "sh", "-c", text, "recovery", *arguments]


def last_drill(ctl: Operator) -> Any:
    """What status has of the volume."""
    (row,) = json.loads(ctl.run("status", "--json").stdout)["volumes"]
    return row["last_drill"]


def unwell(ctl: Operator) -> set[str]:
    """The kinds of findings about drills."""
    findings = json.loads(ctl.run("health", "--json").stdout)["findings"]
    return {each["kind"] for each in findings if each["kind"].startswith("drill")}


def nothing_is_left(ctl: Operator) -> bool:
    return not json.loads(ctl.run("clones", "--json").stdout)["clones"]


async def test_cmd_recovers_on_clones_and_its_exit_code_is_the_drills(ctl: Operator) -> None:
    await ctl.cut()
    good = ctl.run("drill", "db", *script(RECOVERY, "1", "0"))
    assert (good.returncode, "nightly" in good.stderr) == (0, True), good.stderr
    assert ((passed := last_drill(ctl))["outcome"], unwell(ctl)) == ("passed", set())
    assert passed["time"] == passed["passed_time"] > time.time() - PATIENCE_SECONDS
    again = ctl.run("drill", "db@nightly", *script(RECOVERY, "1", "3"))
    assert again.returncode == 3  # it found what was there at the cut, not what the first one wrote
    failed = last_drill(ctl)
    assert (failed["outcome"], failed["exit_code"], failed["cut"]) == ("failed", 3, passed["cut"])
    assert (failed["passed_time"], failed["id"] != passed["id"]) == (passed["time"], True)
    assert unwell(ctl) == {"drill-failed"}
    certificate = json.loads(ctl.run("points", "db", "--json").stdout)["certificate"]
    (controller,) = certificate["certificate"]["controllers"]
    assert [volume["drill"] for volume in controller["volumes"]] == [failed]
    assert nothing_is_left(ctl)
    assert ctl.daemon.files.secondary_of("data").read_bytes()[: len(BEFORE)] == BEFORE
    assert ctl("drill", "db", "--", "/nonesuch") == 1
    assert last_drill(ctl) == failed
    assert "data: last drill: FAILED" in ctl.run("status", "--details").stdout
    assert ctl("drill", "db") == 2
    assert ctl("resync", "db", "--wait") == 0


async def test_with_suspend_it_makes_a_cut_and_leaves_it(ctl: Operator) -> None:
    await ctl.fill(BEFORE)
    assert ctl("drill", "db", *script("true")) == 5
    assert ctl("drill", "db@latest", "--suspend", *script("true")) == 2
    assert ctl("drill", "db", "--suspend", *script(RECOVERY, "1", "0")) == 0
    assert ctl("resync", "db", "--wait") == 0
    (cut,) = json.loads(ctl.run("cuts", "--json").stdout)["cuts"]
    assert (cut["tag"], cut["verdict"]) == ("drill", "consistent")


async def test_a_cut_that_is_left_meanwhile_is_no_good_drill(ctl: Operator) -> None:
    await ctl.cut()
    forced = shlex.join(
        [*MAIN, "--socket", str(ctl.daemon.files.control_socket), "resync", "db", "--force"]
    )
    lost = ctl.run("drill", "db", *script(forced))
    assert (lost.returncode, "is of no cut; it ended with 0" in lost.stderr) == (9, True)
    assert last_drill(ctl) is None


async def test_a_clone_whose_write_failed_is_no_good_drill_whatever_cmd_says(
    ctl: Operator,
) -> None:
    await ctl.cut()
    # one block has room, and CMD does not look at what became of the others
    careless = 'qemu-io -f raw -c "write -P 9 0 64k" "${DUPLEXD_URIS#* }" >&2 || true'
    done = ctl.run("drill", "db", "--limit", "4KiB", *script(careless))
    assert (done.returncode, last_drill(ctl)["outcome"]) == (1, "failed"), done.stderr
    assert "data: change of 65536 bytes at 0: No space left on device" in done.stderr
    assert unwell(ctl) == {"drill-failed"}
    assert ctl.run("drill", "db", *script(careless)).returncode == 0
    assert (last_drill(ctl)["outcome"], unwell(ctl)) == ("passed", set())
    assert ctl("drill", "db", "--limit", "4KiB", *script(f"{careless}; exit 7")) == 7


async def test_a_drill_that_is_killed_leaves_no_clone(ctl: Operator, tmp_path: Path) -> None:
    await ctl.cut()
    began = tmp_path / "began"
    socket = str(ctl.daemon.files.control_socket)
    command = [*MAIN, "--socket", socket, "drill", "db"]
    sleeps = script(f"echo $$ >{began}; exec sleep 600")
    with subprocess.Popen([*command, *sleeps], env=environment(), cwd=ROOT) as drill:  # noqa: ASYNC220
        until(lambda: began.exists() and began.read_text().endswith("\n"))
        assert not nothing_is_left(ctl)
        drill.kill()
    until(lambda: nothing_is_left(ctl))
    os.kill(int(began.read_text()), signal.SIGKILL)
    assert last_drill(ctl) is None
    assert ctl("resync", "db", "--wait") == 0


async def test_a_drill_ends_its_clones_although_a_reload_took_its_group_away(
    ctl: Operator, tmp_path: Path
) -> None:
    await ctl.cut()
    files = ctl.daemon.files
    text = files.config.read_text()
    files.config.write_text(text[: text.index('[groups."db"]')])
    socket = str(files.control_socket)
    reload = shlex.join([*MAIN, "--socket", socket, "reload"])
    assert ctl("drill", "db", *script(reload)) == 3  # what it asks for at the end is not there
    until(lambda: nothing_is_left(ctl))
    assert ctl("resync", "data", "--wait") == 0


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_of_several_controllers_cmd_gets_all_volumes(tmp_path: Path) -> None:
    with Cluster(tmp_path, {"alpha": ["a0"], "beta": ["b0"]}) as cluster:
        ctl = Ctl(cluster)
        ctl("suspend", "db")
        for_all = 'echo "$DUPLEXD_URIS" | while read -r name uri; do nbdinfo --size "$uri"; done'
        assert ctl("drill", "db", *script(for_all)) == "1048576\n1048576\n"
        assert ctl.json("clones", "db") == {"clones": []}
        drills = [row["last_drill"] for row in ctl.json("status")["volumes"]]
        assert [drill["outcome"] for drill in drills] == ["passed", "passed"]
        assert len({drill["id"] for drill in drills}) == 1
        ctl("resync", "db", "--wait")


def test_with_one_controller_away_it_is_not_recorded_there_and_does_not_pass(
    tmp_path: Path,
) -> None:
    with Cluster(tmp_path, {"alpha": ["a0"], "beta": ["b0"]}) as cluster:
        ctl = Ctl(cluster)
        ctl("suspend", "db")
        kill = f"kill -9 {cluster.daemons['beta'].pid}"
        ctl("drill", "db", *script(kill), code=7)
        (row,) = cluster.daemons["alpha"].request("GET", "/v1/status")[1]["volumes"]
        assert row["last_drill"] is None


def test_a_drill_of_a_void_cut_is_not_recorded_and_says_so(ctl: Operator) -> None:
    suspended = ctl.daemon.request("POST", "/v1/suspend", {"targets": ["db"]})[1]
    cut = suspended["cut"]
    broken = {"consistent": False, "records": 1, "detail": "by hand"}
    assert ctl.daemon.request("POST", f"/v1/cuts/{cut}/grade", broken)[0] == 200
    done = ctl.run("drill", f"db@{cut}", *script("true"))
    assert (done.returncode, "is not recorded" in done.stderr) == (0, True)
    assert last_drill(ctl) is None
