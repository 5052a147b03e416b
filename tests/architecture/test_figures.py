"""Figures of the source that grow unnoticed: each has a limit, a failure lists what it counted."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

from tests.architecture.sources import PACKAGE, modules

ANY_MAX = 60
FILE_LINES_MAX = 450
SAME_NAME_FILES_MAX = 12

# Through these a change passes, from the NBD request to the disk: the type checker is not silenced
# where a wrong type would be a wrong byte on an image.
WRITE_PATH = [
    "backend.py",
    "core/pair.py",
    "engine/apply.py",
    "engine/timeline.py",
    "engine/write_path.py",
    "images/",
    "journal/writer.py",
    "nbd_server/",
]


def files() -> list[Path]:
    return [module.path for module in modules().values()]


def shown(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_any_is_rarely_said() -> None:
    counts = {path: len(re.findall(r"\bAny\b", path.read_text())) for path in files()}
    ranked = sorted((-count, shown(path)) for path, count in counts.items() if count)
    listed = "\n".join(f"{-count:4} {name}" for count, name in ranked)
    total = sum(counts.values())
    assert total <= ANY_MAX, f"{total} times `Any`, imports included:\n{listed}"


def test_the_type_checker_is_not_silenced_on_the_write_path() -> None:
    for place in WRITE_PATH:
        assert (PACKAGE / place).exists(), f"{place} is not there; WRITE_PATH has to follow"
    silenced = [
        f"{shown(path)}:{number}: {line.strip()}"
        for path in files()
        if shown(path).startswith(tuple(WRITE_PATH))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "type: ignore" in line
    ]
    assert not silenced, "\n" + "\n".join(silenced)


def test_nothing_relies_on_assertions() -> None:
    """They are left out with `python -O`. What must hold is checked, or `known`."""
    found = [
        f"{shown(module.path)}:{node.lineno}"
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Assert)
    ]
    assert not found, "\n" + "\n".join(found)


def test_few_files_have_the_name_of_another() -> None:
    named: dict[str, list[str]] = defaultdict(list)
    for path in files():
        if path.name not in {"__init__.py", "__main__.py"}:
            named[path.name].append(shown(path))
    same = [place for places in named.values() if len(places) > 1 for place in places]
    listed = "\n".join(sorted(same, key=lambda place: Path(place).name))
    assert len(same) <= SAME_NAME_FILES_MAX, f"{len(same)} files named like another:\n{listed}"


def test_files_are_short() -> None:
    lengths = [(len(path.read_text().splitlines()), shown(path)) for path in files()]
    long = [f"{lines} {name}" for lines, name in sorted(lengths) if lines > FILE_LINES_MAX]
    assert not long, f"files of more than {FILE_LINES_MAX} lines:\n" + "\n".join(long)


def test_every_room_says_what_it_is() -> None:
    silent = [
        shown(module.path)
        for module in modules().values()
        if module.is_package and not ast.get_docstring(module.tree)
    ]
    assert not silent, "rooms whose __init__.py has no docstring:\n" + "\n".join(silent)
