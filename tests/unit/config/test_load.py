"""Reading the file: what a good one gives, and files that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from duplexd.config.load import load, parse, read
from duplexd.errors import ConfigurationError
from duplexd.net.address import TcpAddress, UnixAddress
from tests.unit.config.files import GOOD, changed, check_mistake

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def good(tmp_path: Path) -> Config:
    return parse(GOOD, tmp_path / "duplexd.toml")


def test_a_good_file_is_read(good: Config, tmp_path: Path) -> None:
    assert good.source == tmp_path / "duplexd.toml"
    assert good.controller.name == "alpha"
    assert good.controller.journal_size == 64 << 20
    assert list(good.volumes) == ["data", "wal"]
    assert (good.volumes["data"].size, good.volumes["data"].mode) == (8 << 20, "async")
    assert (good.volumes["wal"].size, good.volumes["wal"].secondary, good.volumes["wal"].mode) == (
        4096,
        None,
        "sync",
    )
    assert good.groups["db"].volumes == ["data", "wal"]
    assert good.control.group is None


def test_relative_paths_are_relative_to_the_file(
    good: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert good.controller.state_dir == tmp_path / "state"
    assert good.nbd.listen == [
        UnixAddress(f"{tmp_path}/nbd.sock"),
        TcpAddress("127.0.0.1", 10809),
    ]
    assert good.control.socket == tmp_path / "ctl.sock"
    assert good.volumes["data"].primary == tmp_path / "a.img"
    assert good.volumes["data"].secondary == Path("/elsewhere/b.img")
    (tmp_path / "duplexd.toml").write_text(changed('"a.img"', '"../up/a.img"'))
    monkeypatch.chdir(tmp_path)
    assert load("duplexd.toml").volumes["data"].primary == tmp_path.parent / "up" / "a.img"


def test_values_do_not_change_once_checked(good: Config) -> None:
    with pytest.raises(ValueError, match="frozen"):
        good.controller.name = "beta"  # type: ignore[misc]


def test_defaults(tmp_path: Path) -> None:
    text = '[controller]\nname = "a"\nstate_dir = "s"\n[nbd]\nlisten = ["unix:n"]\n'
    config = parse(text, tmp_path / "f.toml")
    assert config.controller.journal_size == 1 << 30
    assert config.control.socket == Path("/run/duplexd/control.sock")
    assert config.volumes == {}
    assert config.groups == {}


@pytest.mark.parametrize("name", ["duplexd.toml", "example-database.toml"])
def test_the_configurations_that_come_along_are_good(name: str) -> None:
    config = load(ROOT / "configs" / name)
    assert config.groups


CASES = {
    "not TOML": ('name = "alpha"', "name = alpha", "not TOML: Invalid value (at line 3, column 8)"),
    "a table twice": (
        "[nbd]",
        "[controller]\n[nbd]",
        "not TOML: Cannot declare ('controller',) twice",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line_with_its_key(case: str, tmp_path: Path) -> None:
    check_mistake(*CASES[case], tmp_path)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda _: None,
            "cannot be read: No such file or directory; give the configuration with --config FILE",
        ),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
        (
            lambda path: path.write_bytes(b"a = 1\nb = '\xff'"),
            "line 2: not UTF-8; save the file as UTF-8 text",
        ),
        (lambda path: path.write_text("a = " + "[" * 9000), "not TOML"),
    ],
    ids=["missing", "a directory", "a loop", "not UTF-8", "nested deeply"],
)
def test_a_file_that_cannot_be_read_is_named(make: object, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "duplexd.toml"
    assert callable(make)
    make(path)
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {expected}")
    assert "\n" not in str(caught.value)


def test_a_file_name_with_nul_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="not a file name"):
        load("a\0b")


def test_a_file_that_has_no_end_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="longer than 16"):
        read("/dev/zero")
