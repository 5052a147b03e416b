"""No import cycle of any kind, neither between modules nor between rooms.

A room is a folder of duplexd/, or a file that lies directly in it. Imports for type checking and
imports within functions count as any other: they let a cycle run, but a reader still goes in
circles. There is no list of exceptions, on purpose.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.architecture.cycles import Graph, cycles
from tests.architecture.sources import PACKAGE, imports, modules

if TYPE_CHECKING:
    from pathlib import Path


def test_modules_import_each_other_in_no_circle() -> None:
    graph, lines = between_modules(PACKAGE)
    assert len(graph) > 100, "the package was not found"
    found = cycles(graph)
    assert not found, f"import cycles:\n{shown(found, lines)}"


def test_rooms_import_each_other_in_no_circle() -> None:
    graph, lines = between_rooms(PACKAGE)
    assert len(graph) > 10, "the package was not found"
    found = cycles(graph)
    assert not found, f"import cycles between rooms:\n{shown(found, lines)}"


Lines = dict[tuple[str, str], list[str]]  # (from, to) -> where


def between_modules(root: Path) -> tuple[Graph, Lines]:
    known = modules(root)
    graph: Graph = {name: set() for name in known}
    lines: Lines = defaultdict(list)
    for module in known.values():
        for name, line in imports(module, known):
            graph[module.name].add(name)
            lines[module.name, name].append(f"{module.path.relative_to(root.parent)}:{line}")
    return graph, lines


def between_rooms(root: Path) -> tuple[Graph, Lines]:
    graph: Graph = defaultdict(set)
    lines: Lines = defaultdict(list)
    for (importer, imported), where in between_modules(root)[1].items():
        ours, theirs = room(importer), room(imported)
        graph[ours].add(theirs)
        lines[ours, theirs] += where
    for ours in graph:
        graph[ours].discard(ours)
    return dict(graph), lines


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def shown(found: list[list[str]], lines: Lines) -> str:
    """One line for each import of each cycle; an empty line between cycles."""
    return "\n\n".join(
        "\n".join(
            f"{importer} -> {imported}  ({', '.join(dict.fromkeys(lines[importer, imported]))})"
            for importer, imported in pairwise(way)
        )
        for way in found
    )


# What counts as an import, on packages made for it


def written(root: Path, **files: str) -> Path:
    """A package `p`; a__b is the file b.py in the folder a."""
    for name, source in files.items():
        path = root / "p" / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return root / "p"


@pytest.mark.parametrize(
    "source",
    [
        "import p.b",
        "from p import b",
        "from p.b import name",
        "from . import b",
        "from .b import name",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.b import name",
        "def function():\n    import p.b",
        "import importlib\nimportlib.import_module('p.b')",
    ],
)
def test_every_kind_of_import_is_part_of_a_cycle(tmp_path: Path, source: str) -> None:
    graph, lines = between_modules(written(tmp_path, a=source, b="import p.a"))
    assert cycles(graph) == [["p.a", "p.b", "p.a"]]
    assert lines["p.b", "p.a"] == ["p/b.py:1"]


def test_a_cycle_over_rooms_is_found_where_the_modules_have_none(tmp_path: Path) -> None:
    root = written(tmp_path, x__one="import p.y.one", y__one="", y__two="import p.x.two", x__two="")
    assert not cycles(between_modules(root)[0])
    graph, lines = between_rooms(root)
    assert shown(cycles(graph), lines) == ("p.x -> p.y  (p/x/one.py:1)\np.y -> p.x  (p/y/two.py:1)")


def test_a_chain_is_no_cycle(tmp_path: Path) -> None:
    root = written(tmp_path, a="import p.b, p.c", b="import p.c", c="import json")
    assert not cycles(between_modules(root)[0])
    assert not cycles(between_rooms(root)[0])


def test_every_cycle_is_shown_short_ones_first(tmp_path: Path) -> None:
    root = written(tmp_path, a="import p.b", b="import p.c", c="import p.a, p.d", d="import p.c")
    assert cycles(between_modules(root)[0]) == [
        ["p.c", "p.d", "p.c"],
        ["p.a", "p.b", "p.c", "p.a"],
    ]
