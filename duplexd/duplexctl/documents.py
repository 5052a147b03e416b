"""Where this installation has a document, for messages that name one.

A path that does not exist is no help at the moment when somebody needs it. The tree of the sources
has the documents in docs/, an installation in share/doc/duplexd: of its virtual environment, or,
where that is PREFIX/lib/duplexd (`make install` and the Debian package), of PREFIX.
"""

from __future__ import annotations

import sys
from pathlib import Path

_SHARE = "share/doc/duplexd"
_SOURCES = Path(__file__).parents[2] / "docs"


def document(name: str, sources: Path = _SOURCES, prefix: Path = Path(sys.prefix)) -> str:
    """The path of `name`; the name alone where the documents are not installed."""
    above = prefix.parent.parent
    places = (sources / name, prefix / _SHARE / name, above / _SHARE / name)
    return next((str(path) for path in places if path.is_file()), name)
