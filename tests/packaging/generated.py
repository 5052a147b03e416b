"""Each committed file that is made from the parsers and docs/, and how."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.packaging.completions import FILES, PROGRAMS, completion
from tests.packaging.man_pages import PAGES, ROOT, man_path, page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

SHARE = ROOT / "configs" / "share"  # becomes share/ of a prefix as it is

GENERATED: Mapping[Path, Callable[[], str]] = {
    man_path(name): partial(page, name) for name in PAGES
} | {
    SHARE / place.format(program): partial(completion, shell, program)
    for shell, place in FILES.items()
    for program in PROGRAMS
}
