"""How a command may take secondaries from their cut. Pure, and small: every part of the way from
the command line to the engine passes it on.
"""

from __future__ import annotations

from typing import NamedTuple


class Leaving(NamedTuple):
    """How a command takes secondaries from their cut: only from this `cut`, if one is named; a
    `reader` ends by it; others, with `force`, too.
    """

    cut: str = ""
    reader: str = ""
    force: bool = False


AS_IT_IS = Leaving()
