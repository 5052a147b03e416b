"""Messages name a document by the path at which this installation has it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from duplexd.duplexctl.documents import document
from tests.support.daemon import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("share", ["lib/duplexd/share", "share"])
def test_an_installed_document_is_named_by_its_path(tmp_path: Path, share: str) -> None:
    """In the virtual environment, or beside it, as `make install` and the package have it."""
    page = tmp_path / share / "doc" / "duplexd" / "health.md"
    page.parent.mkdir(parents=True)
    page.touch()
    assert document("health.md", tmp_path / "none", tmp_path / "lib" / "duplexd") == str(page)


def test_a_document_that_is_not_installed_is_named_by_its_name(tmp_path: Path) -> None:
    assert document("health.md", tmp_path, tmp_path / "lib" / "duplexd") == "health.md"


def test_every_document_that_a_message_names_is_there() -> None:
    sources = [path.read_text() for path in (ROOT / "duplexd").rglob("*.py")]
    named = {name for text in sources for name in re.findall(r"document\(['\"](\S+)['\"]\)", text)}
    assert len(named) > 2
    assert all((ROOT / "docs" / name).is_file() for name in named)
    assert {document(name) for name in named} == {str(ROOT / "docs" / name) for name in named}


def test_no_message_names_a_document_where_only_the_sources_have_it() -> None:
    """A line of a docstring begins without a quotation mark."""
    message = re.compile(r"^ +f?\"(?!\"\").*docs/\S+\.md", re.MULTILINE)
    texts = [path.read_text() for path in (ROOT / "duplexd" / "duplexctl").rglob("*.py")]
    assert [text for text in texts if message.search(text)] == []
