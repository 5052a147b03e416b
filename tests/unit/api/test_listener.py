"""The socket in the file system."""

from __future__ import annotations

import grp
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from duplexd.api import listener
from duplexd.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_new_socket_has_its_mode_and_group(tmp_path: Path) -> None:
    path = tmp_path / "run" / "c.sock"
    group = grp.getgrgid(os.getgid()).gr_name
    with listener.bind(path, group):
        found = path.stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o660
        assert found.st_gid == os.getgid()
    assert [entry.name for entry in path.parent.iterdir()] == ["c.sock"]


def test_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    listener.bind(path, None).close()
    assert path.exists()
    with listener.bind(path, None) as sock:
        sock.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_socket_that_answers_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    with listener.bind(path, None) as sock:
        sock.listen()
        inode = path.stat().st_ino
        with pytest.raises(ConfigurationError, match=r"control\.socket: another daemon answers"):
            listener.bind(path, None)
        assert path.stat().st_ino == inode


def test_a_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="not a socket"):
        listener.bind(path, None)
    assert path.read_text() == "precious"


def test_an_unknown_group_and_an_impossible_place_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"control\.group.*nosuchgroup"):
        listener.bind(tmp_path / "c.sock", "nosuchgroup")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot listen"):
        listener.bind(tmp_path / "file" / "c.sock", None)
    with pytest.raises(ConfigurationError, match="cannot listen"):
        listener.bind(tmp_path / ("x" * 200), None)
    assert {entry.name for entry in tmp_path.iterdir()} == {"file"}
