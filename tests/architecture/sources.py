"""The modules of duplexd as syntax trees, and who imports whom, as the trees say.

Why not import-linter alone: it can be configured to look away (it did, for type-checking imports),
and it checks layers that somebody wrote down. What is here has nothing to configure.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import duplexd

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PACKAGE = Path(duplexd.__file__).resolve().parent


@dataclass(frozen=True)
class Module:
    """One file of a package."""

    name: str  # dotted; that of a package for its __init__.py
    path: Path
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


@cache
def modules(root: Path = PACKAGE) -> dict[str, Module]:
    """Every module of the package at `root`, by its dotted name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path, ast.parse(path.read_text(), str(path)))
    return found


def imports(module: Module, known: Mapping[str, Module]) -> Iterator[tuple[str, int]]:
    """The modules in `known` that `module` imports, with the line: at the top, under TYPE_CHECKING
    and within functions alike.

    `from package import part` imports the module `package.part` if there is one, else `package`.
    That importing `a.b` runs `a/__init__.py` first is not counted.
    """
    for node in ast.walk(module.tree):
        for dotted in _imported(node, module):
            name = dotted
            while name and name not in known:  # what is left over is taken from the module
                name = name.rpartition(".")[0]
            if name and name != module.name:
                yield name, getattr(node, "lineno", 0)


def _imported(node: ast.AST, module: Module) -> list[str]:
    """The dotted names that a node imports, some with a name from within the module at the end."""
    match node:
        case ast.Import(names=aliases):
            return [alias.name for alias in aliases]
        case ast.ImportFrom(module=base, names=aliases, level=level):
            package = module.name.split(".")
            if level:
                up = package[: len(package) - level + module.is_package]
                base = ".".join([*up, base] if base else up)
            return [f"{base}.{alias.name}" for alias in aliases]
        case ast.Call(
            func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [name]
    return []
