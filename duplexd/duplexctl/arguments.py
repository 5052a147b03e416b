"""What can be said of a command line that was not parsed, e.g. because it can't be. Imports
nothing.
"""

from __future__ import annotations


def wants_json(arguments: list[str]) -> bool:
    """Does a command line that was not understood yet ask for JSON? CMD of `quiesce` aside."""
    return "--json" in arguments[: arguments.index("--") if "--" in arguments else None]
