"""What the wheel carries; and that libraries are pinned, the same ones for package and image."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from tests.packaging.generated import GENERATED, SHARE
from tests.support.daemon import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = ROOT / "configs" / "requirements"


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The paths that an installed wheel has below share/ of its prefix."""
    directory: Path = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", directory],
        cwd=ROOT,
        capture_output=True,
        timeout=120,
        check=True,
    )
    (wheel,) = directory.glob("*.whl")
    paths = [PurePosixPath(name).parts for name in ZipFile(wheel).namelist()]
    return {"/".join(each[3:]) for each in paths if each[1:3] == ("data", "share")}


def pins(name: str) -> dict[str, str]:
    """The pinned version of each library."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (PINS / name).read_text(), re.MULTILINE))


# The daemon of README's fourth command answers before the fifth is typed.
ANSWERS = """
trap 'kill $!; wait $!' EXIT
timeout 100 sh -c 'until try/bin/duplexctl --quiet --socket try/var/control.sock status 2>/dev/null
do sleep 0.2; done'
"""


@pytest.mark.long
def test_readme_comes_from_the_wheel_to_a_suspend_within_five_commands(tmp_path: Path) -> None:
    subprocess.run(["make", "wheel"], cwd=ROOT, capture_output=True, timeout=600, check=True)
    (wheel,) = (ROOT / "dist").glob("duplexd-*.whl")
    (tmp_path / "dist").mkdir()
    shutil.copy(wheel, tmp_path / "dist")
    text = (ROOT / "README.md").read_text().partition("from the wheel")[2]
    commands = text.partition("\n\n")[2].partition("\n\n")[0].splitlines()
    assert len(commands) <= 5
    result = subprocess.run(
        ["bash", "-e"],
        input="\n".join([*commands[:-1], ANSWERS, commands[-1]]),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "suspended db: consistent" in result.stdout


def test_the_wheel_carries_man_pages_and_completions(carried: set[str]) -> None:
    assert {path.relative_to(SHARE).as_posix() for path in GENERATED} <= carried


def test_the_wheel_carries_units_users_and_directories(carried: set[str]) -> None:
    files = [path for path in (ROOT / "systemd").rglob("*") if path.is_file()]
    assert {f"duplexd/systemd/{path.relative_to(ROOT / 'systemd')}" for path in files} <= carried


def test_the_wheel_carries_documents_and_examples(carried: set[str]) -> None:
    documents = {
        f"doc/duplexd/{path.relative_to(ROOT / 'docs')}" for path in (ROOT / "docs").rglob("*.md")
    }
    examples = {
        f"doc/duplexd/examples/{path.name}"
        for path in [*(ROOT / "configs").iterdir(), *(ROOT / "configs" / "drills").iterdir()]
        if path.is_file()
    }
    assert documents | examples <= carried


@pytest.mark.parametrize("name", ["runtime.txt", "build.txt"])
def test_every_pin_has_hashes_and_names_no_index(name: str) -> None:
    text = (PINS / name).read_text()
    blocks = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins(name))
    assert all("--hash=sha256:" in block for block in blocks)
    assert not re.search(r"--(index|extra-index|find-links|trusted)|://", text)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("runtime.txt", PROJECT["project"]["dependencies"]),
        ("build.txt", PROJECT["build-system"]["requires"]),
    ],
)
def test_the_pins_are_what_the_project_asks_for(name: str, wanted: list[str]) -> None:
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins(name)[requirement.name]), requirement


def test_the_image_takes_the_pinned_libraries() -> None:
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    for line in lines:
        if "pip install" in line or "pip wheel" in line:
            assert "--require-hashes" in line or "--no-deps" in line, line
