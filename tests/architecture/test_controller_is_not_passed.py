"""No part of the engine or of replication takes, holds or names the controller.

Why: the first engine had twelve modules that took "the controller" and reached through it, so none
of them could be built, tested or understood alone. `engine/controller.py` assembles the parts; each
part is given what it uses, by name.

`config.controller` is the section [controller] of the configuration file and `ring.controller` the
identity in the header of a segment: values, not the object.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.architecture.sources import Module, imports, modules

if TYPE_CHECKING:
    from collections.abc import Iterator

ASSEMBLY = "duplexd.engine.controller"
ROOMS = "duplexd.engine", "duplexd.replication"
NAMES = {"controller", "_controller", "Controller"}
VALUES = {"config", "ring"}  # whose attribute `controller` is not the object


def test_no_part_imports_names_or_takes_the_controller() -> None:
    known = modules()
    parts = [module for module in known.values() if is_part(module.name)]
    assert len(parts) > 10, "the rooms were not found"
    found = [
        f"{module.path.name}:{line}: {what}"
        for module in parts
        for line, what in mentions(module, ASSEMBLY)
    ]
    assert not found, f"{len(found)} mentions of the controller:\n" + "\n".join(found)


def is_part(name: str) -> bool:
    return name != ASSEMBLY and name.startswith(tuple(f"{room}." for room in ROOMS))


def mentions(module: Module, assembly: str) -> Iterator[tuple[int, str]]:
    """Line and kind of everything in a module by which it could get at the controller."""
    for name, line in imports(module, {assembly: module}):
        yield line, f"imports {name}"
    for node in ast.walk(module.tree):
        match node:
            case ast.arg(arg=name) if name in NAMES:
                yield node.lineno, f"parameter {name}"
            case ast.Attribute(value=owner, attr=name) if name in NAMES and not _value(owner):
                yield node.lineno, f"attribute {ast.unparse(node)}"
            case ast.Name(id=name) if name in NAMES:
                yield node.lineno, f"name {name}"
            case ast.ClassDef(name=name) if name in NAMES:
                yield node.lineno, f"class {name}"
        annotation = getattr(node, "annotation", None) or getattr(node, "returns", None)
        if isinstance(annotation, ast.AST):
            for text in ast.walk(annotation):
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    words = ast.walk(ast.parse(text.value, mode="eval"))
                    if any(isinstance(word, ast.Name) and word.id in NAMES for word in words):
                        yield text.lineno, f"annotation {text.value!r}"


def _value(owner: ast.expr) -> bool:
    """The attribute `controller` of this is a value."""
    name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
    return name.lstrip("_") in VALUES


# What counts as a mention


def in_part(source: str) -> list[str]:
    part = Module("duplexd.engine.part", Path("part.py"), ast.parse(source))
    return [what for _line, what in mentions(part, ASSEMBLY)]


@pytest.mark.parametrize(
    "source",
    [
        "from duplexd.engine.controller import Controller as Whole",
        "from duplexd.engine import controller as whole",
        "import duplexd.engine.controller as whole",
        "def build():\n    from duplexd.engine.controller import Controller as Whole",
        "def part(controller): ...",
        "def part(*, _controller=None): ...",
        "lambda controller: 1",
        "class Part:\n    controller: object",
        "class Part:\n    def build(self, whole):\n        self._controller = whole",
        "def part(whole):\n    return whole.controller.step",
        "def part(whole: 'Controller'): ...",
        "def part() -> 'list[Controller]': ...",
        "def part(whole: Controller | None): ...",
        "class Controller: ...",
    ],
)
def test_every_way_to_get_at_the_controller_is_a_mention(source: str) -> None:
    assert in_part(source)


@pytest.mark.parametrize(
    "source",
    [
        "def part(config):\n    return config.controller.state_dir",
        "def part(self):\n    return self._config.controller.name, self.ring.controller.hex()",
        "def part(name: 'Literal[1]', controllers: int): ...",
        "# the controller\n'the controller'",
    ],
)
def test_values_and_words_are_no_mention(source: str) -> None:
    assert not in_part(source)
