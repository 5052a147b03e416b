"""What is said of images before a start. Permissions: tests/system/test_configuration.py."""

from __future__ import annotations

import grp
import os
import pwd
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from duplexd.config import load
from duplexd.config.load import parse
from duplexd.daemon import loading, preflight
from duplexd.errors import WrongStateError
from tests.unit.daemon.files import config, config_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.config.daemon_file import Config
    from duplexd.daemon.preflight import Problem


def served_before(directory: Path) -> None:
    (directory / "state").mkdir()
    (directory / "state" / "checkpoint").write_bytes(b"")


def short(problems: list[Problem]) -> list[tuple[str, bool]]:
    return [(problem.line.partition(": ")[0], problem.degrades) for problem in problems]


def test_an_image_that_is_to_be_created_is_no_problem(tmp_path: Path) -> None:
    assert preflight.look_at_images(config(tmp_path)) == []


@pytest.mark.parametrize("size", [1, 1 << 40])
@pytest.mark.parametrize("how", ["serve", "refuse"])
def test_an_image_of_another_size_may_be_due_to_grow_or_was(
    tmp_path: Path, size: int, how: str
) -> None:
    """If there was a start before: then who reads the journal says if it is not so."""
    with (tmp_path / "p").open("wb") as file:
        file.truncate(size)
    own = config(tmp_path, f'on_start_error = "{how}"')
    assert short(preflight.look_at_images(own)) == [("volumes.v.primary", False)]
    served_before(tmp_path)
    assert preflight.look_at_images(own) == []


def test_what_was_never_an_image_is_a_mistake_at_any_time(tmp_path: Path) -> None:
    served_before(tmp_path)
    (tmp_path / "p").mkdir()
    assert short(preflight.look_at_images(config(tmp_path))) == [("volumes.v.primary", False)]


@pytest.mark.parametrize("named", ["by number", "by name"])
def test_observers_that_write_to_volumes_are_found_by_whatever_name(
    tmp_path: Path, named: str
) -> None:
    own = os.getegid()
    group = str(own) if named == "by number" else grp.getgrgid(own).gr_name
    observers = f'group_role = "observe"\ngroup = "{group}"'
    text = config_text().replace('socket = "c"', f'socket = "c"\n{observers}')
    (problem,) = preflight.look(parse(text, tmp_path / "f.toml"))
    assert problem.line.startswith(f'control.group_role: "observe" is for the group {group!r}')


@pytest.mark.parametrize("path", ["/proc/w.img", "/sys/kernel/w.img", "/dev/w.img"])
def test_no_image_is_created_where_no_disk_is(tmp_path: Path, path: str) -> None:
    (problem,) = preflight.look_at_images(config(tmp_path, p=path))
    assert "no image can be created; give the path of a block device, or of a file" in problem.line
    assert not problem.forbidden


def test_a_file_of_the_kernel_is_no_image(tmp_path: Path) -> None:
    (problem,) = preflight.look_at_images(config(tmp_path, p="/proc/version"))
    assert "is a file below /proc, where nothing is kept" in problem.line


def test_a_reload_takes_no_image_that_cannot_be_used(tmp_path: Path) -> None:
    served_before(tmp_path)
    (tmp_path / "p").write_bytes(b"x")
    own = config(tmp_path)
    assert preflight.look_at_images(own, own) == [], "it is served already, however that goes"
    other = config(tmp_path, p="q")
    assert short(preflight.look_at_images(own, other)) == [("volumes.v.primary", False)]


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The disk of the image does not answer."""
    event, stat = threading.Event(), Path.stat

    def hangs(path: Path, *, follow_symlinks: bool = True) -> object:
        if path.name == "p":
            event.wait()
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", hangs)
    yield
    event.set()


@pytest.mark.usefixtures("hanging")
def test_an_image_that_hangs_costs_a_while_and_is_named(tmp_path: Path) -> None:
    own = load.parse(text(tmp_path), tmp_path / "f.toml", follow=False)
    (problem,) = preflight.look_at_images(own, seconds=0.01)
    assert problem.line == f"volumes.v.primary: '{tmp_path / 'p'}' does not answer for 0.01 s"
    assert problem.degrades


def test_a_configuration_that_hangs_is_waited_for_no_longer_than_an_image(tmp_path: Path) -> None:
    path = tmp_path / "duplexd.toml"
    os.mkfifo(path)
    with pytest.raises(WrongStateError, match="the configuration file does not answer"):
        loading.load_in_time(path, 0.05)


@pytest.mark.usefixtures("hanging")
def test_a_configuration_can_be_read_while_an_image_hangs(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(text(tmp_path))
    assert loading.load_in_time(tmp_path / "f.toml", seconds=0.01).controller.name == "a"


def text(directory: Path) -> str:
    return (
        f'[controller]\nname = "a"\nstate_dir = "{directory}/state"\n[nbd]\nlisten = ["unix:n"]\n'
        '[control]\nsocket = "c"\n[volumes.v]\nsize = 4096\nprimary = "p"\n'
    )


def test_a_state_directory_that_everybody_can_write_to_is_a_mistake(tmp_path: Path) -> None:
    own = config(tmp_path)
    own.controller.state_dir.mkdir()
    own.controller.state_dir.chmod(0o777)
    (problem,) = preflight.look(own)
    assert "can be written by every user of this machine (mode 0777)" in problem.line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_state_directory_of_another_user_is_a_mistake(tmp_path: Path) -> None:
    own = config(tmp_path)
    own.controller.state_dir.mkdir()
    os.chown(own.controller.state_dir, 3003, -1)
    (problem,) = preflight.look(own)
    assert "belongs to user 3003, who could replace everything in it" in problem.line
    assert "runuser" not in problem.line, "there is no such user"
    os.chown(own.controller.state_dir, pwd.getpwnam("nobody").pw_uid, -1)
    (problem,) = preflight.look(own)
    assert "run this as that user: runuser -u nobody -- duplexd" in problem.line


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("group", '"no-such"', "nbd.listen[0].group: there is no group 'no-such'"),
        ("allow", '["user:no-such"]', "volumes.v.allow: there is no user 'no-such'"),
        ("image_group", '"no-such"', "controller.image_group: there is no group 'no-such'"),
    ],
)
def test_a_name_that_this_machine_does_not_know(
    tmp_path: Path, key: str, value: str, expected: str
) -> None:
    where = {"group": "[nbd]", "allow": "[volumes.v]", "image_group": "[controller]"}[key]
    text = config_text().replace(where, f"{where}\n{key} = {value}")
    (problem,) = preflight.look(load.parse(text, tmp_path / "f.toml"))
    assert problem.line.startswith(expected)


def test_as_root_state_and_sockets_are_in_places_that_only_root_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    tmp_path.chmod(0o777)
    found = preflight.look(config(tmp_path))
    keys = {problem.line.split(": ")[0] for problem in found if problem.forbidden}
    assert {"controller.state_dir", "control.socket"} <= keys


@pytest.mark.parametrize("key", ["control.socket", "nbd.listen[0]"])
@pytest.mark.parametrize("there", ["file", "directory"])
def test_what_lies_where_a_socket_is_to_be_is_not_replaced(
    tmp_path: Path, key: str, there: str
) -> None:
    path = tmp_path / "taken"
    path.mkdir() if there == "directory" else path.touch()
    (problem,) = preflight.look(with_socket(tmp_path, key, path))
    assert problem.line == f"{key}: '{path}' is no socket, so it stays; give another path"


@pytest.mark.parametrize("key", ["control.socket", "nbd.listen[0]"])
def test_the_directory_of_a_socket_is_made_if_it_can_be(tmp_path: Path, key: str) -> None:
    assert preflight.look(with_socket(tmp_path, key, tmp_path / "new" / "sock")) == []
    (tmp_path / "file").touch()
    (problem,) = preflight.look(with_socket(tmp_path, key, tmp_path / "file" / "sock"))
    assert problem.line.startswith(f"{key}: '{tmp_path / 'file'}' is not a directory")
    (problem,) = preflight.look(with_socket(tmp_path, key, Path("/proc/sock")))
    assert problem.line.startswith(f"{key}: '/proc' is below /proc")


def test_a_state_directory_in_proc_is_a_mistake(tmp_path: Path) -> None:
    text = config_text().replace('state_dir = "state"', 'state_dir = "/proc/state"')
    (problem,) = preflight.look(load.parse(text, tmp_path / "f.toml"))
    assert problem.line.startswith("controller.state_dir: '/proc/state' is below /proc")


def with_socket(directory: Path, key: str, path: Path) -> Config:
    there = {"control.socket": ("c", str(path)), "nbd.listen[0]": ("unix:n", f"unix:{path}")}
    old, new = there[key]
    return config(directory, **{old: new})
