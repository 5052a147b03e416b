"""The example in the room's docstring."""

from __future__ import annotations

import doctest
from pathlib import Path

from duplexd import engine


def test_the_example_in_the_docstring_works() -> None:
    found = doctest.testmod(engine)
    assert found.attempted > 10
    assert found.failed == 0


def test_the_docstring_names_every_module() -> None:
    room = Path(str(engine.__file__)).parent
    modules = {path.stem for path in room.iterdir() if path.name[0] not in "_."}
    assert [name for name in sorted(modules) if f"`{name}`" not in str(engine.__doc__)] == []
