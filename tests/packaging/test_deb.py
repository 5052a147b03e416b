"""The Debian package in a fresh Debian: what README says, an upgrade, a removal.

The long tests build it, and make the next version of it by another number alone.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from email.parser import Parser
from typing import TYPE_CHECKING

import pytest

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
