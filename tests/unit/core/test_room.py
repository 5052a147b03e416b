"""The example in the room's docstring. What its modules may import is checked by import-linter."""

from __future__ import annotations

import doctest
from pathlib import Path

from duplexd import core


def test_the_example_in_the_docstring_works() -> None:
    found = doctest.testmod(core)
    assert found.attempted > 10
    assert found.failed == 0


def test_the_docstring_names_every_module() -> None:
    modules = {path.stem for path in Path(str(core.__file__)).parent.glob("*.py")} - {"__init__"}
    assert [name for name in sorted(modules) if f"`{name}`" not in str(core.__doc__)] == []
