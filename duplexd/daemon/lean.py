"""Imports for the daemon, without work that it has no use for: it starts sooner.

- structlog loads rich, to colour tracebacks as the daemon never writes them;
- pydantic looks into every package that is installed for plugins, and runs them;
- the cycle collector searches all that was imported, again and again, and nearly all of it stays.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_PLUGINS = "PYDANTIC_DISABLE_PLUGINS"


@contextmanager
def lean() -> Iterator[None]:
    """While this lasts there seems to be no rich, and no plugin of pydantic."""
    modules: dict[str, object] = sys.modules  # type: ignore[assignment]  # None: cannot be imported
    rich, plugins = modules.setdefault("rich", None), os.environ.get(_NO_PLUGINS)
    os.environ[_NO_PLUGINS] = "__all__"
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        if rich is None:
            del modules["rich"]
        if plugins is None:
            del os.environ[_NO_PLUGINS]
        else:
            os.environ[_NO_PLUGINS] = plugins
