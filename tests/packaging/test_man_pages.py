"""The man pages are those of this version, and say what --help says, in roff that any man takes."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from duplexd.daemon.program import cli as daemon
from tests.packaging.generated import GENERATED
from tests.packaging.man_pages import PAGES, ROOT, commands, man_path

if TYPE_CHECKING:
    from pathlib import Path

# Pages have no date: it would change with every edit, and says less than the version beside it.
ACCEPTED = "missing date"


def rendered(name: str) -> str:
    """As a terminal of 80 columns shows it; troff's warnings fail."""
    result = subprocess.run(
        ["man", "--warnings", "-E", "ascii", "-l", man_path(name)],
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "80", "MANROFFOPT": "-c", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stderr == ""
    return re.sub(r".\x08", "", result.stdout)


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_generated_file_is_what_make_man_writes(path: Path) -> None:
    assert path.read_text() == GENERATED[path](), "run `make man` and commit what it changes"


@pytest.mark.parametrize("name", PAGES)
def test_mandoc_finds_nothing_wrong_with_the_page(name: str) -> None:
    result = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", man_path(name)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert [line for line in result.stdout.splitlines() if ACCEPTED not in line] == []


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_shown_without_warnings_and_begins_with_its_name(name: str) -> None:
    lines = rendered(name).splitlines()
    assert lines[lines.index("NAME") + 1].split()[0] == name.rpartition(".")[0]


def test_duplexd_8_has_every_command_and_option() -> None:
    text = rendered("duplexd.8")
    for words, command in commands(daemon):
        assert re.search(rf"^   {words}$", text, re.MULTILINE), words
        for option in (each for parameter in command.params for each in parameter.opts):
            assert option.upper() in text or option in text, (words, option)


def test_duplexd_toml_5_names_keys_with_their_defaults() -> None:
    text = rendered("duplexd.toml.5")
    assert re.search(r"^ +name \(required\)$", text, re.MULTILINE)
    assert re.search(r"^ +hold_max \(default: 2\.0\)$", text, re.MULTILINE)
