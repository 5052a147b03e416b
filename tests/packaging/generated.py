"""Each committed file that is made from the parsers and docs/, and how."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.packaging.completions import FILES, PROGRAMS, completion
from tests.packaging.man_pages import DOCS, PAGES, ROOT, page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

COMPLETION = ROOT / "configs" / "completion"

GENERATED: Mapping[Path, Callable[[], str]] = {
    DOCS / "man" / name: partial(page, name) for name in PAGES
} | {
    COMPLETION / shell / name.format(program): partial(completion, shell, program)
    for shell, name in FILES.items()
    for program in PROGRAMS
}
