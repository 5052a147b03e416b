"""The Debian package in a fresh Debian: what README says, an upgrade, a removal; in a root alone,
and in one that its own systemd runs.

The long tests build it, and make the next version of it by another number alone.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from email.parser import Parser
from typing import TYPE_CHECKING

import pytest

from tests.packaging.booted import PACKAGES, Booted
from tests.packaging.debian_root import START, STOP, Root
from tests.support.daemon import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEBIAN = ROOT / "configs" / "debian"
SCRIPTS = ("postinst", "prerm", "postrm")
INSTALL = "apt-get -q install -y --no-install-recommends ./{}\n"
CUTS = "duplexctl cuts --output cut,verdict,tag\n"


def readme() -> list[str]:
    """The commands with which README comes to the first suspend."""
    text = (ROOT / "README.md").read_text().partition("from the package")[2]
    block = text.partition("\n\n")[2].partition("\n\n")[0]
    return [line.strip() for line in block.splitlines()]


@pytest.fixture(scope="module")
def package() -> Path:
    subprocess.run(["make", "deb"], cwd=ROOT, capture_output=True, timeout=900, check=True)
    (path,) = (ROOT / "dist").glob("duplexd_*.deb")
    return path


@pytest.fixture(scope="module")
def newer(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same package with a higher version."""
    directory = tmp_path_factory.mktemp("newer")
    unpacked = directory / "unpacked"
    subprocess.run(["dpkg-deb", "--raw-extract", package, unpacked], timeout=300, check=True)
    control = unpacked / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^(Version: .*)", r"\1+next", control.read_text()))
    path = directory / "newer.deb"
    subprocess.run(["dpkg-deb", "-Zgzip", "--build", unpacked, path], timeout=300, check=True)
    return path


@pytest.fixture(scope="module")
def fresh(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Root:
    root = Root.bootstrap(tmp_path_factory.mktemp("debian") / "fresh")
    root.add(package, package.name)
    return root


@pytest.fixture
def root(fresh: Root, tmp_path: Path) -> Iterator[Root]:
    """A Debian where README's commands were typed, and its daemon was stopped then."""
    root = fresh.copy(tmp_path / "root")
    script = "".join(f"{line}\n" for line in readme())
    script = re.sub(
        r"^apt install \./\S+$", INSTALL.format("duplexd_*.deb"), script, flags=re.MULTILINE
    )
    root.run(script.replace("systemctl start duplexd@first\n", START) + STOP)
    yield root
    subprocess.run(["rm", "-rf", root.path], timeout=300, check=True)


def test_readme_comes_to_a_suspend_within_five_commands() -> None:
    commands = readme()
    assert len(commands) <= 5
    assert commands[0].startswith("apt install ./dist/duplexd_")
    assert commands[-1].startswith("duplexctl suspend")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_shell_can_read_the_script_of_the_package(name: str) -> None:
    result = subprocess.run(
        ["sh", "-n", DEBIAN / name], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "#DEBHELPER#" in (DEBIAN / name).read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_of_the_package_deletes_what_an_operator_has(name: str) -> None:
    text = (DEBIAN / name).read_text()
    deleting = [line for line in text.splitlines() if re.search(r"\brm\b|-delete\b", line)]
    assert all(line.strip().startswith("find /usr/lib/duplexd ") for line in deleting)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives directories to root")
def test_directories_are_made_and_stay_as_an_operator_left_them(tmp_path: Path) -> None:
    rules = ROOT / "systemd" / "tmpfiles.d" / "duplexd.conf"
    closed = tmp_path / "etc" / "duplexd"
    closed.mkdir(parents=True)
    closed.chmod(0o750)
    os.chown(closed, -1, 1)
    command = ["systemd-tmpfiles", f"--root={tmp_path}", "--create", str(rules)]
    subprocess.run(command, timeout=60, check=True)
    found = closed.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o750, 1)
    found = (tmp_path / "var" / "lib" / "duplexd").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o755, 0, 0)


SYSTEMCTL = """#!/bin/sh
case "$*" in
    daemon-reload) exit 1 ;;
    *--state=active*canary*) echo duplexd@db.service loaded active ;;
    *) echo duplexd@old.service loaded failed ;;
esac
"""


def test_an_upgrade_names_the_daemons_that_run_and_needs_no_answer_of_systemd(
    tmp_path: Path,
) -> None:
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    script = (DEBIAN / "postinst").read_text().replace("/usr/lib/duplexd/bin/python3", "true")
    result = subprocess.run(
        ["sh", "-s", "configure", "0.1.0"],
        input=script.replace("/run/systemd/system", str(tmp_path)),
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0
    assert "restart them: duplexd@db.service\n" in result.stdout


def test_the_package_says_what_it_needs_and_what_it_is_not() -> None:
    source, binary = map(Parser().parsestr, (DEBIAN / "control").read_text().split("\n\n", 1))
    assert source["Rules-Requires-Root"] == "no"
    assert "${python:Depends}" in binary["Depends"]
    assert "RAID" in binary["Description"]


@pytest.mark.long
def test_lintian_finds_no_error(package: Path) -> None:
    result = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error", package],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.long
def test_readme_leaves_a_consistent_cut_and_manual_pages(root: Root) -> None:
    assert "consistent" in root.run(START + CUTS + STOP)
    root.run(
        "test -s /usr/share/man/man1/duplexctl.1.gz && test -s /lib/systemd/system/duplexd@.service"
    )
    assert root.run("stat -c %U:%a /srv/duplexd/data-secondary.img").split() == ["duplexd:600"]


@pytest.mark.long
def test_an_upgrade_keeps_state_and_configuration(root: Root, newer: Path) -> None:
    before = root.run(f"echo '# mine' >>/etc/duplexd/first.toml{START}{CUTS}{STOP}")
    root.add(newer, "newer.deb")
    root.run(INSTALL.format("newer.deb"))
    assert "+next" in root.run("dpkg-query -W -f '${Version}' duplexd")
    assert root.run(START + CUTS + STOP) == before
    assert root.run("tail -n 1 /etc/duplexd/first.toml") == "# mine\n"


@pytest.mark.long
@pytest.mark.parametrize("how", ["remove", "purge"])
def test_a_removal_leaves_images_state_and_configuration(root: Root, how: str) -> None:
    kept = "find /srv/duplexd /var/lib/duplexd /etc/duplexd -type f -exec md5sum {} + | sort"
    before = root.run(kept)
    root.run(f"apt-get -q {how} -y duplexd")
    assert root.run(kept) == before
    root.run("test ! -e /usr/lib/duplexd -a ! -e /usr/bin/duplexd -a ! -e /usr/bin/duplexctl")
    root.run("getent passwd duplexd")


# -------------------------------------------------------------------------------- under systemd

UNIT = "duplexd@first"
SOCKET = "/run/duplexd/first/control.sock"
BACKUP = "duplexd-backup@db"
DEST = "/srv/backup/db"
URI = "'nbd+unix:///data?socket=/run/duplexd/first/nbd.sock'"
SOON = "[Timer]\nOnCalendar=\nOnActiveSec=1s\nRandomizedDelaySec=0\n"  # in place of 2 o'clock
# What a hook can do in the sandbox, and where; the last word is the cut.
HOOK = """#!/bin/sh
in_etc=refused; touch /etc/mine 2>/dev/null && in_etc=done
in_tmp=refused; touch /tmp/mine && in_tmp=done
echo "$DUPLEXD_HOOK $DUPLEXD_GROUP $(id -un) $in_etc $in_tmp $DUPLEXD_CUT" >>/srv/duplexd/hooks
"""


@pytest.fixture(scope="module")
def bootable(fresh: Root, tmp_path_factory: pytest.TempPathFactory) -> Root:
    """A fresh Debian that can boot, with the programs that README recommends."""
    root = fresh.copy(tmp_path_factory.mktemp("booted") / "bootable")
    root.run(f"apt-get -q update && apt-get -q install -y --no-install-recommends {PACKAGES}")
    return root


@pytest.fixture
def system(bootable: Root, tmp_path: Path) -> Iterator[Booted]:
    """It is up, and README's commands were typed as they are there."""
    root = bootable.copy(tmp_path / "booted")
    with Booted(root) as booted:
        for command in readme():
            is_install = command.startswith("apt install ./")
            booted.run(INSTALL.format("duplexd_*.deb") if is_install else command)
        yield booted
    subprocess.run(["rm", "-rf", root.path], timeout=300, check=True)


def ctl(system: Booted, command: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        system.run(f"duplexctl --json --socket {SOCKET} {command}")
    )
    return found


@pytest.mark.long
def test_under_systemd_it_suspends_reloads_and_runs_hooks_in_its_sandbox(system: Booted) -> None:
    """A reload that is refused is a failed `systemctl reload`."""
    assert system.properties(UNIT, "ActiveState", "SubState") == ["active", "running"]
    process = system.properties(UNIT, "MainPID")
    system.run("duplexctl resync db --wait")
    for name in ("freeze", "thaw"):
        system.write(f"/usr/local/sbin/{name}", HOOK, 0o755)
    system.run(
        """sed -i '$ a before_suspend = ["/usr/local/sbin/freeze"]' /etc/duplexd/first.toml
        sed -i '$ a after_suspend = ["/usr/local/sbin/thaw"]' /etc/duplexd/first.toml
        runuser -u duplexd -- duplexd check --config /etc/duplexd/first.toml
        systemctl reload duplexd@first"""
    )
    cut = ctl(system, "suspend db --tag hooked")
    assert system.run("cat /srv/duplexd/hooks").splitlines() == [
        "before_suspend db duplexd refused done ",
        f"after_suspend db duplexd refused done {cut['cut']}",
    ]
    system.run("test ! -e /tmp/mine && echo nonsense >>/etc/duplexd/first.toml")
    assert system.outcome("systemctl reload duplexd@first")[0] != 0
    system.run("sed -i '$ d' /etc/duplexd/first.toml && systemctl reload duplexd@first")
    assert system.properties(UNIT, "MainPID") == process


@pytest.mark.long
def test_the_timer_starts_a_backup_that_can_be_restored(system: Booted) -> None:
    system.run(
        f"""duplexctl resync db --wait
        qemu-io -f raw -c 'write -P 0x77 1M 2M' {URI}
        install -d -o duplexd -g duplexd -m 0700 /srv/backup"""
    )
    system.write(
        "/etc/duplexd/backup/db.conf",
        f"DEST={DEST}\nOPTIONS=--keep 7d,4w,6m\nDUPLEXD_SOCKET={SOCKET}\n",
    )
    system.write(f"/etc/systemd/system/{BACKUP}.timer.d/soon.conf", SOON)
    system.run(f"systemctl daemon-reload && systemctl enable --now {BACKUP}.timer")
    ended = ["dead", "success"]
    system.wait(
        "a backup that the timer has begun",
        lambda: bool(system.properties(f"{BACKUP}.service", "ExecMainExitTimestamp")[0]),
    )
    assert system.properties(f"{BACKUP}.service", "SubState", "Result") == ended, system.journal()
    listed = f"runuser -u duplexd -- duplexctl --json backups {DEST} --check --max-age 26h"
    (made,) = json.loads(system.run(listed))["backups"]
    assert (made["targets"], made["verify_cut"]) == (["db"], "confirmed")
    system.run(f"qemu-io -r -c 'read -P 0x77 1M 2M' {made['path']}/data.qcow2 | grep -v differ")
    system.run("duplexctl resync db --wait")
    # a backup that cannot be made is a unit that has failed, and says why in words
    system.run("mv /usr/bin/qemu-img /usr/bin/qemu-img.away")
    system.write("/usr/bin/qemu-img", "#!/bin/sh\necho no luck >&2; exit 1\n", 0o755)
    assert system.outcome(f"systemctl start {BACKUP}.service")[0] != 0
    said = system.run(f"journalctl -q -u {BACKUP}.service -o cat")
    assert ": no luck" in said
    assert "Traceback" not in said
    assert system.properties(f"{BACKUP}.service", "ActiveState", "Result") == [
        "failed",
        "exit-code",
    ]


@pytest.mark.long
def test_under_systemd_an_upgrade_leaves_the_daemon_and_a_removal_what_it_wrote(
    system: Booted, newer: Path, tmp_path: Path
) -> None:
    """The daemon goes on as it was until it is restarted; its cut is there then."""
    process, before = system.properties(UNIT, "MainPID"), ctl(system, "cuts")
    Root(tmp_path / "booted").add(newer, "newer.deb")
    said = system.run(INSTALL.format("newer.deb"))
    assert "restart them: duplexd@first.service\n" in said
    assert system.properties(UNIT, "MainPID") == process
    system.run(f"systemctl enable --now {BACKUP}.timer && systemctl restart {UNIT}")
    assert ctl(system, "cuts")["cuts"] == before["cuts"]
    kept = "find /srv/duplexd /var/lib/duplexd /etc/duplexd -type f | sort"
    files = system.run(kept)
    system.run("apt-get -q remove -y duplexd")
    assert system.run(kept) == files
    states = system.properties(UNIT, "ActiveState")
    assert states == ["inactive"]
    assert system.outcome("test -e /usr/bin/duplexd")[0] != 0
    assert system.run("systemctl --failed --no-legend") == ""
