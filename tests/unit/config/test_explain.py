"""How a mistake is reported: its key, what is wrong, an example that would be right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.config.files import GOOD, changed, check_mistake, mistakes

if TYPE_CHECKING:
    from pathlib import Path

CASES = {
    "unknown key of the controller": (
        'name = "alpha"',
        'name = "alpha"\nnaem = 1',
        "controller.naem: unknown key; did you mean 'name'?",
    ),
    "unknown key of nbd": (
        "[nbd]",
        "[nbd]\nlissten = []",
        "nbd.lissten: unknown key; did you mean 'listen'?",
    ),
    "keys that are shared": (
        "[nbd]",
        '[nbd.tls]\npsk_file = "keys.psk"\n[nbd]',
        "nbd.tls: pre-shared keys (psk) are not offered",
    ),
    "unknown key of control": (
        "[control]",
        "[control]\ngrp = 1",
        "control.grp: unknown key; did you mean 'group'?",
    ),
    "unknown key of a volume": (
        'primary = "a.img"',
        'primary = "a.img"\nsecundary = "x"',
        "volumes.data.secundary: unknown key; did you mean 'secondary'?",
    ),
    "unknown key of a group": (
        "[groups.db]",
        "[groups.db]\nx = 1",
        "groups.db.x: unknown key; expected one of: before_suspend, after_suspend, hook_timeout",
    ),
    "unknown table": ("[nbd]", "[volume.x]\n[nbd]", "volume: unknown key; did you mean 'volumes'?"),
    "a key of ours": (
        "\n[controller]",
        'source = "x"\n[controller]',
        "source: unknown key; remove it",
    ),
    "no name": (
        'name = "alpha"\n',
        "",
        'controller.name: is missing; write for example name = "alpha"',
    ),
    "no state_dir": (
        'state_dir = "state"\n',
        "",
        'controller.state_dir: is missing; write for example state_dir = "/var/lib/duplexd/alpha"',
    ),
    "no size": (
        'size = "8MiB"\n',
        "",
        'volumes.data.size: is missing; write for example size = "10GiB"',
    ),
    "no primary": (
        'primary = "a.img"\n',
        "",
        'volumes.data.primary: is missing; write for example primary = "/srv/a/data.img"',
    ),
    "listen is text": (
        '["unix:nbd.sock", "tcp:127.0.0.1:10809"]',
        '"unix:nbd.sock"',
        "nbd.listen: 'unix:nbd.sock' is not a list; write for example listen = [",
    ),
    "insecure is text": (
        "insecure = true",
        'insecure = "yes"',
        "nbd.insecure: 'yes' is not true or false; write for example insecure = true",
    ),
    "group is a number": (
        "[control]",
        "[control]\ngroup = 7",
        'control.group: 7 is not text; write for example group = "duplexd"',
    ),
    "group is empty text": (
        "[control]",
        '[control]\ngroup = ""',
        'control.group: is empty; write for example group = "duplexd"',
    ),
    "mode unknown": (
        '"async"',
        '"fast"',
        (
            "volumes.data.mode: 'fast' is not one of the choices; write mode = \"sync\" or "
            'mode = "async"'
        ),
    ),
    "volumes of a group is text": (
        'volumes = ["data", "wal"]',
        'volumes = "data"',
        "groups.db.volumes: 'data' is not a list; write for example volumes = [",
    ),
    "member is a number": ('["data", "wal"]', "[1]", "groups.db.volumes[0]: 1 is not text"),
    "volume is a number": (
        '[volumes.wal]\nsize = 4096\nprimary = "wal.img"',
        "[volumes]\nwal = 5",
        "volumes.wal: 5 is not a table",
    ),
    "listen on nothing": (
        '["unix:nbd.sock", "tcp:127.0.0.1:10809"]',
        "[]",
        "nbd.listen: is empty; write for example listen = [",
    ),
    "group of nothing": (
        '["data", "wal"]',
        "[]",
        "groups.db.volumes: is empty; write for example volumes = [",
    ),
    "group without volumes": (
        'volumes = ["data", "wal"]',
        "",
        "groups.db.volumes: is missing; write for example volumes = [",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line_with_its_key(case: str, tmp_path: Path) -> None:
    check_mistake(*CASES[case], tmp_path)


@pytest.mark.parametrize("table", ["controller", "nbd"])
def test_a_table_that_is_missing_is_named(table: str, tmp_path: Path) -> None:
    start = GOOD.index(f"[{table}]")
    end = GOOD.index("\n[", start)
    assert mistakes(GOOD[:start] + GOOD[end:], tmp_path) == [
        f"{table}: is missing; write a table [{table}]"
    ]


def test_every_mistake_has_a_line(tmp_path: Path) -> None:
    text = changed('"8MiB"', "0").replace('"64MiB"', "1").replace('name = "alpha"', "")
    keys = [line.split(":")[0] for line in mistakes(text, tmp_path)]
    assert keys == ["controller.name", "controller.journal_size", "volumes.data.size"]
