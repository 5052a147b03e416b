"""Mistakes that show only when several values are seen at once."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from duplexd import limits
from duplexd.config.load import parse
from tests.unit.config.files import GOOD, changed, check_mistake, mistakes

if TYPE_CHECKING:
    from pathlib import Path

CASES = {
    "listen twice on a socket": (
        '"unix:nbd.sock"',
        '"unix:nbd.sock", "unix:./x/../nbd.sock"',
        "is used twice, also by nbd.listen[0]; remove one",
    ),
    "listen twice on a port": (
        '"unix:nbd.sock"',
        '"tcp:127.0.0.1:10809"',
        "'tcp:127.0.0.1:10809' is used twice, also by nbd.listen[0]",
    ),
    "listen on the control socket": (
        '"unix:nbd.sock"',
        '"unix:ctl.sock"',
        "is used twice, also by control.socket",
    ),
    "secondary is the primary": ('"/elsewhere/b.img"', '"./a.img"', "volumes.data.secondary: "),
    "image of two volumes": (
        '"wal.img"',
        '"a.img"',
        "is used twice, also by volumes.data.primary; configure an image for each leg",
    ),
    "image is the configuration": (
        '"wal.img"',
        '"duplexd.toml"',
        "is used twice, also by the file itself",
    ),
    "image is the state directory": (
        '"wal.img"',
        '"state"',
        "is used twice, also by controller.state_dir",
    ),
    "image is a socket": ('"wal.img"', '"nbd.sock"', "is used twice, also by nbd.listen[0]"),
    "image in the journal": (
        '"wal.img"',
        '"state/journal/0001.seg"',
        "is inside controller.state_dir, where only the journal and what belongs to it may be",
    ),
    "image is the checkpoint": (
        '"wal.img"',
        '"state/checkpoint"',
        "is inside controller.state_dir",
    ),
    "image beside the journal": (
        '"wal.img"',
        '"state/images/wal.img"',
        "is inside controller.state_dir, where only the journal and what belongs to it may be",
    ),
    "unknown member": (
        '["data", "wal"]',
        '["data", "wall"]',
        "groups.db.volumes[1]: there is no volume 'wall'; did you mean 'wal'?",
    ),
    "member twice": (
        '["data", "wal"]',
        '["data", "data"]',
        "groups.db.volumes[1]: 'data' is listed twice; remove one",
    ),
    "group named as a volume": (
        "[groups.db]",
        "[groups.data]",
        (
            "groups.data: a volume has this name too, so that commands could not tell them "
            "apart; rename one"
        ),
    ),
    "group of two modes": (
        'primary = "wal.img"',
        'primary = "wal.img"\nsecondary = "w2"',
        "'data' (async) and 'wal' (sync) differ in mode, but a group is cut at one sequence number",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line_with_its_key(case: str, tmp_path: Path) -> None:
    check_mistake(*CASES[case], tmp_path)


def test_an_image_is_recognised_by_a_link_to_it(tmp_path: Path) -> None:
    (tmp_path / "a.img").write_bytes(b"")
    (tmp_path / "wal.img").hardlink_to(tmp_path / "a.img")
    assert "also by volumes.data.primary;" in mistakes(GOOD, tmp_path)[0]


def test_an_image_is_recognised_through_a_linked_directory(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert (
        "also by volumes.data.primary;"
        in mistakes(changed('"wal.img"', '"link/a.img"'), tmp_path)[0]
    )


def test_a_block_device_is_recognised_by_another_node_of_it(tmp_path: Path) -> None:
    for name in ("a.img", "wal.img"):
        os.mknod(tmp_path / name, stat.S_IFBLK | 0o600, os.makedev(7, 0))
    assert "also by volumes.data.primary;" in mistakes(GOOD, tmp_path)[0]


def test_two_block_devices_are_two_images(tmp_path: Path) -> None:
    for minor, name in enumerate(("a.img", "wal.img")):
        os.mknod(tmp_path / name, stat.S_IFBLK | 0o600, os.makedev(7, minor))
    parse(GOOD, tmp_path / "f.toml")


def test_too_many_volumes(tmp_path: Path) -> None:
    volumes = "".join(
        f'[volumes.v{n}]\nsize = 4096\nprimary = "v{n}"\n' for n in range(limits.VOLUMES_MAX - 1)
    )
    assert mistakes(GOOD + volumes, tmp_path) == [
        "volumes: 4097 volumes are too many; expected at most 4096"
    ]


def test_modes_of_volumes_without_secondary_do_not_matter(tmp_path: Path) -> None:
    assert parse(GOOD, tmp_path / "f.toml").volumes["wal"].mode != "async"


@pytest.mark.parametrize("table", ["nbd.tls", "control.tls"])
@pytest.mark.parametrize("key", ["certificate", "key", "client_ca"])
def test_a_file_of_tls_is_no_image(tmp_path: Path, table: str, key: str) -> None:
    files = {"certificate": "s.pem", "key": "s.key", "client_ca": "c.pem", key: "wal.img"}
    written = "".join(f'{name} = "{path}"\n' for name, path in files.items())
    if table == "control.tls":
        written += 'listen = ["127.0.0.1:10810"]\noperate = ["backup"]\n'
    (line,) = mistakes(f"{GOOD}\n[{table}]\n{written}", tmp_path)
    assert f"'{tmp_path}/wal.img' is used twice, also by {table}.{key};" in line
